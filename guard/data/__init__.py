"""Images in, whatever form they come in: `load(data)` -> `ImageData`.

    form                                     example                                 labels, class names
    a folder with one sub-folder per class   "photos/"                               sub-folders, sorted by name
    a folder of images, any nesting          load("photos/", labelled=False)         none
    a CSV or TSV file                        "labels.csv"                         path,label; with or without a header
    a pandas or polars frame                 frame                                columns of images or paths, and labels
    a Parquet file or a folder of shards     "cifar10/train.parquet", "c/train*"     column `label`; names in the schema
    WebDataset: one or several tar files     "a.tar", "shards/", "shards/train-*"    the .cls beside each image
    a URL that fsspec opens                  "s3://bucket/photos/"                   those of the same without URL
    a Hugging Face data set, or its id       ds, "user/name", "user/name:test"       column `label`; its ClassLabel
    a map-style torch data set               torchvision.datasets.X(...)             the int of each pair; `.classes`
    a pair of arrays                         (uint8 (N, H, W[, C]), labels (N,))     "0", "1", ...
    a list of images, or an array            load([img, ...], labelled=False)        none
    scikit-learn's digits, 32 x 32           "digits", "digits:0-7"                  the digit

(A folder that is called digits is given as "./digits".) Importing this package loads neither pyarrow nor datasets nor
scikit-learn; each is imported when its form is used. torch is never needed.

loading, forms   from any form to `ImageData`; decoding, pixels and spill are its parts
image_data       images of one size, their labels and where they came from; union joins several
labels, coding   what is checked of labels, and seen of how images were coded
fingerprint      a short name for the content
splits           disjoint parts by seed; held_out draws them for every public function, apart knows those given apart
classes          which class of a model each class of the data is
test_images      which images a guard is evaluated and calibrated on
"""

from __future__ import annotations

from .image_data import ImageData
from .loading import load
from .splits import default_count, split

__all__ = ["ImageData", "default_count", "load", "split"]
