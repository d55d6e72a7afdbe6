"""How good a guard is, in numbers, a table and a page.

metrics        AUROC, both FPR95s, AUPR and calibration error, by scikit-learn
evaluate       a guard on in-distribution test images and OOD sets
result         what that found, as records
table          the result in a terminal
charts         histograms and ROC curves as SVG
wrong_answers  the most confidently wrong images
page           the frame of a self-contained page
report         all of it on one
"""
