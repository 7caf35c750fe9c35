"""Pictures of lamps in the dark, and a network that sees nothing else: where and how surely a face is seen is exactly known."""

import cv2
import numpy as np

from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE
from keyanon_core.faces.detection import OTHER_SIDE
from keyanon_core.faces.landmarks import FIVE_IN_BOX, template_in_box
from keyanon_core.faces.looks import Candidates

LIT = 20  # of 255, from which a pixel belongs to a lamp
NOTHING = Candidates(np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0))
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]  # of a drawn face's five landmarks


def night(height, width):
    return np.zeros((height, width, 3), np.uint8)


def hang(picture, x, y, width, height, score=1.0):
    """A lamp whose box is (x, y, x + width, y + height) - 0.5 px; what the network makes of it is `score`."""
    picture[y : y + height, x : x + width] = round(score * 255)
    return x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5


def lamps(pixels, lowest):
    """A `looks.Network`: each lamp is a face as bright as it is sure."""
    lit = (pixels[..., 0] > LIT).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(lit)
    boxes, scores = [], []
    for label in range(1, count):
        x, y, width, height = stats[label, :4]
        score = pixels[y : y + height, x : x + width, 0].max() / 255
        if score >= lowest:
            boxes.append((x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5))
            scores.append(score)
    if not boxes:
        return NOTHING
    return Candidates(np.array(boxes), np.array([template_in_box(box) for box in boxes]), np.array(scores))


def answers(boxes, scores, landmarks=None):
    """A network that sees these boxes whatever it is shown."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    points = FIVE_IN_BOX * (high - low) + low if landmarks is None else np.asarray(landmarks, np.float64)
    said = Candidates(boxes, points, np.asarray(scores, np.float64))
    return lambda pixels, lowest: said


def drawn_face(shape, x, y, size, degrees):
    """A picture of five coloured dots, and where they are: a face `size` px high about (x, y), rolled clockwise as seen."""
    turn = np.radians(degrees)
    linear = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    landmarks = (UPRIGHT_TEMPLATE - UPRIGHT_TEMPLATE.mean(0)) * 1.6 @ linear.T + [x, y]
    picture = night(*shape)
    for colour, point in zip(COLOURS, landmarks, strict=True):
        centre = tuple(int(value) for value in np.rint(point * 16))
        cv2.circle(picture, centre, round(0.07 * size * 16), colour, -1, cv2.LINE_AA, shift=4)
    return picture, landmarks


def dots(score=0.9):
    """A network that sees the one drawn face by its dots; like a real one it calls the eye left that stands left."""

    def see(pixels, lowest):
        points = []
        for colour in COLOURS:
            on = ((pixels > 128) == (np.array(colour) > 128)).all(-1)
            rows, columns = np.nonzero(on)
            if len(rows) == 0:
                return NOTHING
            points.append((columns.mean(), rows.mean()))
        landmarks = np.array(points)
        across, down = landmarks[1] - landmarks[0], landmarks[3:].mean(0) - landmarks[:2].mean(0)
        if across[0] * down[1] - across[1] * down[0] < 0:  # it is mirrored
            landmarks = landmarks[list(OTHER_SIDE)]
        middle, spread = landmarks.mean(0), np.ptp(landmarks, axis=0)
        box = np.concatenate([middle - spread, middle + spread])
        if score < lowest:
            return NOTHING
        return Candidates(box[None], landmarks[None], np.array([score]))

    return see
