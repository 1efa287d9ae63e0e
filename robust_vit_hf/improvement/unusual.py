"""Photographs with unusual backgrounds: those whose background looks like that of another class."""

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..diagnosis.linear_probe import MAX_FOLDS, PENALTIES
from ..evaluation.other_backgrounds import Outputs


LEAST = 0.1  # share of the images that are called unusual at least


def unusual_backgrounds(train: Outputs, validation: Outputs) -> tuple[np.ndarray, np.ndarray]:
    """Whether each training and each validation image has an unusual background, `(N,)` bool each.

    A ridge regression predicts the class from the features of backgrounds alone. It is fitted to training images; they
    are predicted by fits to the other folds. Unusual are the images that it gets wrong, as in JTT
    (https://huggingface.co/papers/2107.09044), and at least [`LEAST`] of all: those where the score of their class is
    least, compared with the best other one. Images with a mask in doubt are not unusual.
    """
    of_roles = {"train": train, "validation": validation}
    unusual = {role: np.zeros(len(of.labels), bool) for role, of in of_roles.items()}
    known = {role: np.flatnonzero(~np.isnan(of.backgrounds[:, 0])) for role, of in of_roles.items()}
    classes = np.union1d(train.labels, validation.labels)
    if len(classes) > 1 and len(known["train"]) > 1 and len(known["validation"]):
        features = {role: of.backgrounds[known[role]].astype(float) for role, of in of_roles.items()}
        right = {role: of.labels[known[role]][:, None] == classes for role, of in of_roles.items()}
        probe = make_pipeline(StandardScaler(), RidgeCV(PENALTIES * features["train"].size))
        folds = KFold(min(MAX_FOLDS, len(known["train"])), shuffle=True, random_state=0)
        scores = {"train": cross_val_predict(probe, features["train"], right["train"].astype(float), cv=folds)}
        probe.fit(features["train"], right["train"].astype(float))
        scores["validation"] = probe.predict(features["validation"])
        for role, found in unusual.items():
            margins = scores[role][right[role]] - np.where(right[role], -np.inf, scores[role]).max(axis=1)
            count = max(int((margins < 0).sum()), int(LEAST * len(margins)))
            found[known[role][np.argsort(margins, kind="stable")[:count]]] = True
    return unusual["train"], unusual["validation"]
