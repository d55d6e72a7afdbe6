"""Score a whole data set into Parquet: what ``guard scan`` and `guard.scan` do.

    data --shards--> groups of images --processes--> verdicts --whole or absent--> part-00000.parquet ... --> report

    scan.py        the whole of it, top to bottom
    plan.py        which images, in which shards; what makes a scan the same one (scan.json)
    reading.py     a data set whose broken parts are named and never stop the scan
    scoring.py     groups of images -> verdicts, in processes of their own or here; worker.py is such a process
    cluster.py     shards -> verdicts, as tasks of a Ray cluster
    shards.py      the Parquet files: written whole, read again in parts
    summary.py     counts, rates, drift, the most OOD and most ordinary images, in constant memory
    labels.py      likely mislabelled and off-class images; cross_fit.py asks each image's fellows instead of the guard
    result.py      `ScanSummary`, what was found; page.py a report to look at, pictures.py its images

pyarrow writes Parquet. No torch for an exported guard.
"""
