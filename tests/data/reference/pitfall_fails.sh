# This fails: needs 12 GPUs but only 8 available
--tensor-model-parallel-size 8 --expert-model-parallel-size 1 \
--rl-inference-tensor-model-parallel-size 4 --rl-inference-expert-model-parallel-size 1 \
--refit-mode non-collocated
# 8 + 4 = 12 GPUs needed > 8 available
