#!/usr/bin/env bash
# Run once, when the image is built: install Python and the packages, with PyTorch for CPUs only; download CIFAR-10.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source settings.sh
apt-get update
apt-get install -y --no-install-recommends python3 python3-venv
python3 -m venv ../venv
grep '^torch' requirements.txt > torch.txt
../venv/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu -r torch.txt
../venv/bin/pip install --no-cache-dir -r requirements.txt
if [[ $flags != *--no_training* ]]; then
    ../venv/bin/python -c 'from cifar10_utils import get_cifar10; get_cifar10("cifar10/cifar-10-batches-py")'
fi
