#!/bin/bash
# Train on all GPUs of one node: sbatch trainer/slurm/one_node.sh --model vit-b --dataset photos --output_dir runs/vit-b
#SBATCH --job-name=robust-vit
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.out
set -euo pipefail

# `srun` passes on the signal of the time limit, and the training saves a checkpoint: docs/reference.md.
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" accelerate launch \
  --config_file trainer/accelerate_configs/several_gpus.yaml \
  --num_processes "$SLURM_GPUS_ON_NODE" \
  trainer/train.py "$@"
