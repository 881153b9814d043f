"""From the result.json files of a study to its tables, figures and verdicts; one job a file.

    results    read and check a study folder            csv_files  its rows as CSV
    cells      runs by method, encoder and proportion   names      what things are called and how they are drawn
    statistics spread, contrasts, rank correlation      anova      method effect against encoder effect
    claims     the published study's claims, judged     figures    SVG and PNG
    document   blocks of a report                       page, markdown  the blocks, written out
    sections   which blocks the report holds            build      all of it, to a folder

Nothing here trains or looks at frames: what `training.study` wrote is all that counts.
"""
