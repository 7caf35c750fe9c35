"""What each figure of an evaluation means: the table behind reports, `--fail-under` and docs/metrics.md."""

from dataclasses import dataclass
from typing import Final, Literal

RECOVERED: Final = "recovered"  # how versions end that are to be their source
CLEAN: Final = "clean"  # version of figures of two pictures of a person, both as they were
NOISE_REJECTED: Final = "noise_rejected"
MIN_FID_FACES: Final = 2049  # one more than there are features, as its authors ask for
Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True)
class Metric:
    """name: as in a figure's key. better: which of two figures is to be wished. of_people: whether the source is known again,
    where what is wished of an anonymized face is the contrary of what is wished of a recovered one; `better` is the former."""

    name: str
    title: str
    unit: str
    better: Better
    definition: str
    source: str
    of_people: bool = False

    def better_for(self, version: str) -> Better:
        """As `better`, of a version."""
        if self.of_people and version == CLEAN:
            return "neither"
        if self.of_people and version.endswith(RECOVERED):
            return "higher" if self.better == "lower" else "lower"
        return self.better


METRICS: Final = (
    Metric(
        "measured",
        "pictures measured",
        "share",
        "higher",
        "Share of the pictures that could be measured, without those in whose source no face was found. No other figure speaks "
        "of the rest: a limit on this one says how many they may be.",
        "keyanon",
    ),
    Metric(
        "untouched",
        "faces left as they were",
        "share",
        "lower",
        "Share of the source's faces of whose pixels fewer than a tenth changed by more than 8 of 255 levels: missed faces, "
        "empty masks and source pictures that were published.",
        "keyanon",
        of_people=True,
    ),
    Metric(
        "accepted",
        "taken for the source",
        "share",
        "lower",
        "Share of faces whose distance from their own source is below the recognizer's own threshold for one person.",
        "ISO/IEC 19795-1, false non-match turned round",
        of_people=True,
    ),
    Metric(
        "cosine",
        "cosine to the source",
        "",
        "lower",
        "Mean cosine between a face's identity vector and its own source's.",
        "Labarbarie et al. 2025",
        of_people=True,
    ),
    Metric(
        "rank1",
        "source is the nearest of all",
        "share",
        "lower",
        "Share of faces to which their own source is the nearest in the gallery of all sources; chance is one over the gallery.",
        "ISO/IEC 19795-1, rank-1 identification rate",
        of_people=True,
    ),
    Metric(
        "mean_rank",
        "mean rank of the source",
        "",
        "higher",
        "Mean rank of the own source in the gallery, over the rank in the middle: 1 is a stranger's.",
        "keyanon; rank as in ISO/IEC 19795-1",
        of_people=True,
    ),
    Metric(
        "tar_far_1",
        "TAR at FAR 1 %",
        "share",
        "lower",
        "Share of faces nearer to their own source than all but one in a hundred pairs of different sources are to each other.",
        "ISO/IEC 19795-1",
        of_people=True,
    ),
    Metric(
        "tar_far_01",
        "TAR at FAR 0.1 %",
        "share",
        "lower",
        "The same at one in a thousand pairs.",
        "ISO/IEC 19795-1",
        of_people=True,
    ),
    Metric(
        "eer",
        "equal error rate",
        "share",
        "higher",
        "Where as large a share of faces is rejected as their own source's as of pairs of different sources is taken for one "
        "person; 0.5 is chance.",
        "ISO/IEC 19795-1",
        of_people=True,
    ),
    Metric(
        "other_photo_rank1",
        "another photograph of the person is the nearest",
        "share",
        "lower",
        "Share of faces to which another photograph of their person is the nearest in the gallery of all sources but the own: an "
        "attacker seldom has the very source. Only of people whom the data set shows twice; of `source`, what the recognizer "
        "reaches where nobody is protected.",
        "ISO/IEC 19795-1, rank-1 identification rate",
        of_people=True,
    ),
    *(
        Metric(
            name,
            f"another photograph, TAR at FAR {share}",
            "share",
            "lower",
            f"Share of faces nearer to the next photograph of their person than all but one in a {word} pairs of different "
            "people's sources are to each other.",
            "ISO/IEC 19795-1",
            of_people=True,
        )
        for name, share, word in (
            ("other_photo_tar_far_1", "1 %", "hundred"),
            ("other_photo_tar_far_01", "0.1 %", "thousand"),
        )
    ),
    Metric(
        "same_pseudonym",
        "one face in all pictures of a person",
        "share",
        "neither",
        "Share of pairs of one person's pictures whose anonymized faces are nearer to each other than all but one in a hundred "
        "pairs of different people's sources: high where pseudonyms are consistent, else that of the next line. Only of people "
        "whom the data set shows twice.",
        "ISO/IEC 19795-1, true match rate",
    ),
    Metric(
        "other_pseudonym",
        "one face for two people",
        "share",
        "lower",
        "The same of pairs of two people's pictures, of each face with one that is drawn. Anonymized faces are more alike than "
        "sources are.",
        "ISO/IEC 19795-1, false match rate",
    ),
    Metric(
        "linkability",
        "linkability D_sys",
        "",
        "lower",
        "How far distances of faces to their own source can be told from those to other sources: 0 not at all, 1 always. Of few "
        "faces it is above 0 by chance.",
        "Gomez-Barrero et al., IEEE TIFS 13(6), 2018; ISO/IEC 24745",
        of_people=True,
    ),
    Metric(
        "threshold_far_01",
        "cosine at FAR 0.1 %",
        "",
        "neither",
        "The cosine above which one in a thousand pairs of clean pictures of different people lies: which recognizer was used "
        "shows here.",
        "ISO/IEC 19795-1",
        of_people=True,
    ),
    Metric(
        "found",
        "faces found again",
        "share",
        "higher",
        "Share of the source's faces that the detector finds in the same place.",
        "detection rate",
    ),
    Metric(
        "detected",
        "pictures with a face",
        "share",
        "higher",
        "Share of pictures in which the detector finds a face, wherever.",
        "Labarbarie et al.",
    ),
    Metric(
        "landmark_shift",
        "landmarks moved by",
        "of the eyes' distance",
        "lower",
        "Mean distance of five landmarks to the source's, over that of the eyes; median over the faces that were found again, as "
        "are the next six.",
        "keyanon, after the next",
    ),
    Metric(
        "landmark_shift_68",
        "68 landmarks moved by",
        "of the eyes' distance",
        "lower",
        "The same of 68 landmarks, over the distance of the outer corners of the eyes.",
        "normalised mean error, Sagonas et al., 300-W, 2013",
    ),
    *(
        Metric(
            name,
            f"head's {name} changed by",
            "degrees",
            "lower",
            f"Absolute change of the head's {name}.",
            "SQPnP, 68 points",
        )
        for name in ("yaw", "pitch", "roll")
    ),
    Metric(
        "mask_iou",
        "IoU of the face's mask",
        "",
        "higher",
        "Of the masks that the parser draws, before and after.",
        "Jaccard",
    ),
    Metric(
        "mask_dice", "Dice of the face's mask", "", "higher", "The same as twice the shared over the sum.", "Dice 1945"
    ),
    Metric(
        "psnr_face",
        "PSNR in the face",
        "dB",
        "higher",
        "Peak signal-to-noise ratio against the source over the face's pixels, 8 bits; median over faces. 100 stands for equal "
        "pixels.",
        "",
    ),
    Metric(
        "ssim_face",
        "SSIM in the face",
        "",
        "higher",
        "Structural similarity over the face; median.",
        "Wang et al. 2004",
    ),
    Metric(
        "mae_face",
        "MAE in the face",
        "of [-1, 1]",
        "lower",
        "Mean absolute error over the face; median.",
        "Labarbarie et al.",
    ),
    Metric(
        "lpips_face",
        "LPIPS of the face",
        "",
        "lower",
        "Distance of the face and its source as people see it: of the square around the face's box, 35 % of it wider on every "
        "side, at 299 px, by AlexNet and the heads of version 0.1; median over faces.",
        "Zhang et al. 2018, by their package lpips",
    ),
    Metric(
        "psnr_picture",
        "PSNR of the picture",
        "dB",
        "higher",
        "Over all pixels of the picture; median over faces, in the paper's tables the mean, as of the masks above.",
        "",
    ),
    Metric(
        "ssim_picture",
        "SSIM of the picture",
        "",
        "higher",
        "Mean, in the paper's tables; by a Gaussian window, as there.",
        "Wang et al. 2004",
    ),
    Metric(
        "mae_picture", "MAE of the picture", "of [-1, 1]", "lower", "Mean, in the paper's tables.", "Labarbarie et al."
    ),
    Metric(
        "same_outside",
        "pixels outside the faces that stayed",
        "share",
        "higher",
        "Share of the pixels in no face that are bit for bit the source's; mean over faces.",
        "keyanon",
    ),
    Metric(
        "seam_colour",
        "colour seam",
        "of the source's",
        "lower",
        "CIELAB distance across the edge of the face over the source's own; median over faces.",
        "keyanon, CIE 1976",
    ),
    Metric(
        NOISE_REJECTED,
        "keyed noise that is not normal",
        "share",
        "lower",
        "Share of rehearsed faces whose keyed noise, walked back to from what is published, a test of normality rejects at 1 %, "
        "by skewness and kurtosis of its masked coordinates; chance is 1 %, and 2 % for masks of 48 coordinates.",
        "D'Agostino and Pearson 1973, by scipy",
    ),
    Metric(
        "texture_distance",
        "Frechet distance of textures",
        "",
        "lower",
        "Squared Frechet distance of texture features of the faces to the sources'; no FID: its features are not Inception's.",
        "Heusel et al. 2017, Dowson and Landau 1982",
    ),
    Metric(
        "texture_kernel_distance",
        "kernel distance of textures",
        "",
        "lower",
        "Squared maximum mean discrepancy of the same features under (x y / d + 1)^3, a face and its own source left out: at one "
        "level for few faces and for many, and 0 for sets of one kind, below it by chance. No KID.",
        "Binkowski et al. 2018",
    ),
    Metric(
        "fid",
        "FID of the faces",
        "",
        "lower",
        "Squared Frechet distance of Inception's 2048 features of the faces to the sources', by the weights of 2015-12-05: each "
        "the square around the face's box, 35 % of it wider on every side, at 299 px. So it compares with figures of keyanon "
        "evaluate alone, and of as many faces, for it falls as they become more. There is none of fewer than "
        f"{MIN_FID_FACES:,}: of no more faces than features no covariance is known.",
        "Heusel et al. 2017; Inception of torch-fidelity",
    ),
    Metric(
        "kid",
        "KID of the faces",
        "",
        "lower",
        "Squared maximum mean discrepancy of the same features under (x y / 2048 + 1)^3, of all faces at once, a face and its "
        "own source left out: at one level for few faces and for many, and 0 for sets of one kind, below it by chance.",
        "Binkowski et al. 2018; Inception of torch-fidelity",
    ),
    Metric(
        "picture_fid",
        "FID of the pictures",
        "",
        "lower",
        "Squared Frechet distance of Inception's 2048 features of whole pictures to their sources', mean over the parts of a "
        "data set: it falls as pictures become more, and compares between parts of one size.",
        "Heusel et al. 2017",
    ),
    Metric(
        "picture_distance",
        "Frechet distance of the pictures",
        "",
        "lower",
        "The same of other features than Inception's: no FID.",
        "Dowson and Landau 1982",
    ),
    Metric(
        "solved",
        "recoveries that were solved",
        "share",
        "higher",
        "Share of faces of which recovery solved every step; of the rest the published picture is measured.",
        "keyanon",
    ),
)
BY_NAME: Final = {metric.name: metric for metric in METRICS}
