"""Video: clips are worked on in pieces of some frames, each of them a row of its run, and joined again at the end.

`index` says where a clip's frames lie and how it is cut, `piece` holds the packets of some frames, `frames` decodes them,
`encoding` makes the published ones, `strip_source` is a piece as the picture that `pictures` works on, `tracking` tells who is
who from frame to frame, with `association`, `people` and `trajectory` below it, `joining` makes one file of published pieces,
`matroska` tells a file that was cut.
PyAV, which all but tracking and these three need, is the extra `video`.
"""
