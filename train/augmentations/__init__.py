"""What in-distribution images, and outliers with them, go through in training: the steps of ``augment=``.

base        a step, its registry, chains of steps
shifts      crop, flip, resized_crop
host        randaugment, autoaugment, augmix: torchvision's, image by image
cutout, cutmix
pixmix      and its operations; pictures: what it mixes in
resample    images shrunk and enlarged again
given       pictures of the user's own
choices     a function for each row of a batch
"""

from . import shifts as shifts  # isort: skip
from . import cutmix as cutmix
from . import cutout as cutout
from . import host as host
from . import pixmix as pixmix
from . import resample as resample
