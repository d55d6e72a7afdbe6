"""What an exported guard costs at run time: ``guard bench``.

interleave   fair timings on a machine that is not quiet; machine.py says which one it was
measure      exported guards beside the bare classifier, by batch size; memory.py a process of its own for each
result       the numbers, as a table and JSON; page.py as a page
"""
