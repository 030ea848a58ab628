"""Sources of training data: one file per source, found by import (see `mplat.train.data`)."""
