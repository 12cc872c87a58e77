#!/bin/bash
#SBATCH --job-name=distill-hub
#SBATCH --array=1-16
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#
# Sixteen jobs of one GPU each that share a set, in bf16, as SLURM finds room for them, now two and later twelve:
#
#   sbatch recipes/accelerate/slurm_array.sh recipes/cao2.py --config recipes/configs/imagenet1k/cao2.yaml --join
#
# Each may come and go, since --join has them claim their work piece by piece in the output folder, which all nodes must see, as
# they must both caches. More are submitted with the same command, also while others are at work, and after all have ended it goes
# on where they stopped. A job that is preempted goes into the queue again. What is not shared piece by piece, such as the
# fine-tuning of a generator, one job does while the others wait: slurm.sh has all GPUs do that together.
#
# It has never been run under SLURM: jobs that join were killed and started on one machine.
set -euo pipefail

export DISTILL_HUB_CACHE="${DISTILL_HUB_CACHE:-$HOME/.cache/distill_hub}" HF_HOME="${HF_HOME:-$HOME/.cache/huggingface}"
exec accelerate launch --config_file recipes/accelerate/one_gpu.yaml "$@"
