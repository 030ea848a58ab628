"""What a worker raises is raised where the command was typed, with its class and its node. No Ray is started."""

import signal

import pytest
from mplat.core.errors import ClusterError, InputError, StoppedEarly, UsageError
from mplat.runtime.ray_train import _error
from mplat.runtime.stop import StopRequest
from mplat.runtime.worker_group import GroupSize, places


class Cluster:
    def __init__(self, *nodes):
        self._nodes = nodes

    def nodes(self):
        return self._nodes


def failure(kind, message, **more):
    return {"kind": kind, "message": message, "trace": "", "node": "b7", "resume": None, **more}


def test_errors_keep_their_class_and_name_the_node():
    missing = _error(failure("InputError", "data file a.jsonl: cannot be read"), StopRequest())
    assert isinstance(missing, InputError) and str(missing) == "worker on node b7: data file a.jsonl: cannot be read"
    full = _error(failure("OSError", "", errno=28, file="/runs/x/model.safetensors"), StopRequest())
    assert isinstance(full, OSError) and full.errno == 28 and full.filename == "node b7: /runs/x/model.safetensors"
    bug = _error(failure("KeyError", "'x'"), StopRequest())
    assert "worker on node b7: the worker raised KeyError: 'x'" in str(bug)
    assert isinstance(_error(failure("ClusterError", "mplat is 2 there"), StopRequest()), ClusterError)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, StoppedEarly)])
def test_a_stop_is_what_was_asked_for(number, kind):
    stop = StopRequest()
    stop.signal = number
    error = _error(failure(kind.__name__, "stopped after step 3", resume="mplat train x"), stop)
    assert type(error) is kind and str(error) == "stopped after step 3"
    assert error.resume_command == "mplat train x"


def test_places_are_counted_node_by_node():
    cluster = Cluster({"CPU": 3.0, "GPU": 1.0}, {"CPU": 5.0}, {"GPU": 4.0, "CPU": 8.0})
    assert places(cluster, 2, 0) == 1 + 2 + 4
    assert places(cluster, 2, 1) == 1 + 0 + 4
    GroupSize(5, 9, threads=2, gpus=1).check(cluster)
    with pytest.raises(UsageError, match=r"6 with 2 CPU and 1 GPU each do not fit: 5 can be placed on 3 node\(s\)"):
        GroupSize(6, 6, threads=2, gpus=1).check(cluster)
