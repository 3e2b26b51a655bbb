./benchmark_refit_sbatch.sh \
    --tensor-model-parallel-size 2 \              # TP=2
    --expert-model-parallel-size 2 \              # EP=2
    --expert-tensor-parallel-size 1 \             # ✓ ETP=1
    --num-experts 16 \                            # MoE enabled
    --disable-bias-linear \                       # ✓ Bias disabled
    # ... other args ...
