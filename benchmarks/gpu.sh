#!/usr/bin/env bash
# Everything that needs a GPU. As a whole it has not run on one yet; docs/gpu.md says what has.
#   benchmarks/gpu.sh [folder]       one NVIDIA GPU or more; ranks share them where there are fewer
# The raw records and what the machine is go into the folder, docs/gpu/<host>-<time> by default.
# PYTHON says which interpreter has the project with its [nvshmem,nixl] extras and a CUDA torch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python}
out=${1:-docs/gpu/$(hostname)-$(date -u +%Y%m%dT%H%M%SZ)}
command -v nvidia-smi >/dev/null || { echo "gpu.sh: no nvidia-smi, so no NVIDIA GPU here" >&2; exit 1; }
gpus=$(nvidia-smi --list-gpus | wc -l)
mkdir -p "$out"
{
    nvidia-smi
    nvidia-smi topo --matrix
    "$python" -m pip freeze
    git log -1 --format='commit %H'
} >"$out/machine.txt" 2>&1 || true

# Processes that share a GPU: NVSHMEM (its 2.4.1 release notes) and NCCL (2.30) then need MPS.
if ((gpus < 8)) && [[ -z ${CUDA_MPS_PIPE_DIRECTORY:-} ]]; then
    mps=$(mktemp -d)
    export CUDA_MPS_PIPE_DIRECTORY=$mps CUDA_MPS_LOG_DIRECTORY=$mps
    if nvidia-cuda-mps-control -d; then
        trap 'echo quit | nvidia-cuda-mps-control; rm -rf "$mps"' EXIT
    else
        echo "gpu.sh: MPS did not start; nvshmem and nccl need a GPU for each rank then" >&2
        unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
        rm -rf "$mps"
    fi
fi
# LD_PRELOAD=.../libnccl.so.2 brings another NCCL than torch's own.
shares='import torch; raise SystemExit(torch.cuda.nccl.version() < (2, 30))'
if [[ -n ${CUDA_MPS_PIPE_DIRECTORY:-} ]] && "$python" -c "$shares"; then
    export NCCL_MULTI_RANK_GPU_ENABLE=1
fi

ended=0
refit() { # a failing point is a record like any other; the rest goes on
    "$python" -m refit.run -m model=moe_16e cluster.device=cuda refit=ipc,nvshmem,nccl,nixl \
        bench.warmup=2 bench.iterations=20 bench.deadline_s=120 "$@" || ended=1
}

# 2 and 4 ranks: TP is exchanged for EP on the same ranks. Of 8 that is a row of the table.
swap=parallel=collocated_1_tp4ep2_to_tp2ep4
while read -r ranks source destination; do
    refit "$swap" "parallel.name=swap_${ranks}_ranks" \
        "cluster.ranks_per_node=$ranks" "hydra.sweep.dir=$out/ranks" \
        "parallel.source.tp=${source%x*}" "parallel.source.ep=${source#*x}" \
        "parallel.destination.tp=${destination%x*}" "parallel.destination.ep=${destination#*x}"
done <<<"2 2x1 1x2
4 4x1 2x2"

# The ten rows: what cannot run here is `unsupported`, with the reason.
refit 'parallel=glob(*collocated_*)' "hydra.sweep.dir=$out/table"

"$python" -m benchmarks.gpu_table "$out" | tee "$out/table.txt"
exit "$ended"
