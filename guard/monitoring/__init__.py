"""Does the traffic still look like the calibration images? A test that may be read after every image.

    ranks.py       ood_scores -> exactly uniform p-values, at constant memory
    betting.py     p-values -> a capital that grows only where they are not uniform
    state.py       the numbers that are kept, as one flat array
    monitor.py     `DriftMonitor`: scores in, `DriftReport` out
    report.py      `DriftReport`, what it found
    shared.py      one state file for several processes
    table.py       verdicts from Parquet or CSV; page.py a report to look at

numpy only. `monitor.py` says what is promised and where it comes from.
"""

from .monitor import DriftMonitor as DriftMonitor
from .report import ClassReport as ClassReport
from .report import DriftReport as DriftReport
