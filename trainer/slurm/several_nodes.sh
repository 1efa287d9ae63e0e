#!/bin/bash
# Train on all GPUs of several nodes, which share the folder of the repository and the output_dir:
# sbatch --nodes 4 trainer/slurm/several_nodes.sh --model vit-b --dataset photos --output_dir runs/vit-b
#SBATCH --job-name=robust-vit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.out
set -euo pipefail

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first_node=${nodes%%$'\n'*}
# Two jobs that share a node need two ports.
port=$((20000 + SLURM_JOB_ID % 20000))

# One launcher for each node. SLURM_NODEID differs between nodes, so it is read in the shell that `srun` starts there.
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" bash -c '
  first_node=$1 port=$2
  shift 2
  exec accelerate launch \
    --config_file trainer/accelerate_configs/several_nodes.yaml \
    --num_machines "$SLURM_NNODES" \
    --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
    --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$first_node" \
    --main_process_port "$port" \
    trainer/train.py "$@"
' launch "$first_node" "$port" "$@"
