#!/bin/bash
#SBATCH --job-name=distill-hub
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@60
#
# Two nodes of eight GPUs under SLURM, in bf16; behind the script stands what `accelerate launch` would get:
#
#   sbatch recipes/accelerate/slurm.sh recipes/cao2.py --config recipes/configs/imagenet1k/cao2.yaml
#
# It has never been run under SLURM: what it starts was tested with stubs of scontrol and srun. Submit it from the folder
# above recipes/, which all nodes must see: outputs/ lies there, and every process leaves its part of the work in it. They must
# also see both caches; set the two variables before if the home folders are not shared.
#
# A job that was preempted, lost a node or ran out of time goes into the queue again and goes on where it stopped, with the
# same command: no more than the chunks at work are lost. For that USR1 comes a minute before the time is up. SIGTERM needs
# no handling: a process that it ends has nothing to save. Where one process fails, --kill-on-bad-exit ends those of the
# other nodes, which would wait for it.
set -euo pipefail

export DISTILL_HUB_CACHE="${DISTILL_HUB_CACHE:-$HOME/.cache/distill_hub}" HF_HOME="${HF_HOME:-$HOME/.cache/huggingface}"
read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT

trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file recipes/accelerate/multi_node.yaml \
    --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * SLURM_GPUS_ON_NODE)) \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" "$@"' node "$@" &
wait $!
