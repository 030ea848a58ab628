"""Linear discriminant analysis: the difference of means, whitened by the covariance inside the sets."""

from __future__ import annotations

from .method import Activations, Direction, Labelled, in_span, one_thread, stacked, vector_method


@vector_method("lda")
def lda(examples: Labelled) -> Direction:
    """The inverse within-set covariance (Ledoit-Wolf shrinkage) times the difference of means."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, y = stacked(examples)

    def fit(z: Activations) -> Direction:
        found = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
        return found.fit(z, y).coef_[0]

    with one_thread():
        return in_span(x, fit)
