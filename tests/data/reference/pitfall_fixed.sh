# This works: needs 6 GPUs, 2 will be idle
--tensor-model-parallel-size 4 --expert-model-parallel-size 1 \
--rl-inference-tensor-model-parallel-size 2 --rl-inference-expert-model-parallel-size 1 \
--refit-mode non-collocated
# 4 + 2 = 6 GPUs needed ≤ 8 available ✓
