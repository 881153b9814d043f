"""From one's own footage and a few hundred labels to a new pair, held against the current one.

The files, in the order of use:
    footage.py    what lies in the folders: videos, images, Sewer-ML sets, and which inspection they belong to
    labels.py     the labels file: rows about images, instants and intervals of videos
    job.py        what the command is told, and what the stages share
    begin.py      what an output folder was begun with
    start.py      which encoder training starts from
    recover.py    the trainable encoder of a pair that ships only its graph
    estimate.py   how long it will take, measured on a few steps
    extract.py    videos to frames on disk
    table.py      frames, labels and inspections together
    split.py      whole inspections to train, val and test
    prepare.py    stages: extract, split, pack
    learn.py      stages: the encoder to start from, pretraining, probes
    compare.py    two pairs on the same frames: paired differences, and the rule
    weigh.py      stage: the new pair against the default one
    release.py    export, and promotion
    stages.py     what lets the same command continue after a kill
    run.py        the whole way

What they write:
    OUT/retrain.json      where it starts, and the pair to compare with
    OUT/stages/           one record a finished stage: what it was made of, what came out
    OUT/frames-112/       extracted video frames, a folder a video
    OUT/split.csv         which frame went where
    OUT/packs/            pretrain, train, val, test
    OUT/initial/          the encoder that training starts from, a run folder
    OUT/run/              the training run
    OUT/comparison.json   both pairs on the held-out inspections
"""
