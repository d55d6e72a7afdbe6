"""`guard.benchmark`: which method and which score, at what cost, on the same images.

benchmark    the whole: takes runs that nobody holds, trains, measures, writes
file         YAML -> `guard.benchmark_file.BenchmarkFile`, with what replaces its keys
sets         the images: in-distribution and OOD, opened once
asked        scores as the file names them
plan         the runs, and what identifies each
planning     the file -> a plan; everything that can be refused without training is
draws        what each run holds out, drawn when it is planned
card         what a run's folder says of it
training     one run: its folder, its clock, the runs and stores that it needs
turns        which process does which run
outputs      features and logits taken once, and every score on them
measure      a trained network -> rows of numbers
cost         images per second with and without a score, interleaved (`interleave`)
counterparts detectors of another library on the same features
results      the rows on disk
summary      means over seeds, sets left out
differences  each row against the baseline, with `intervals`
tables       results.csv and results.md
published    a paper's numbers beside ours, with published_page
page, plots  report.html, of `page_tables` and scatter plots; report writes all of them
machine      what it was measured on

``--plan``, which needs neither images nor weights:

outlook      what would be done, as expected, with outlook_text
stated       images by the sizes that the file states; weights_here: weights, and what is missing
work         a run's steps and images, with making (what is made first) and network_cost (multiply-adds on shapes)
speeds       what work takes, by times that papers report
state        what is done already
"""
