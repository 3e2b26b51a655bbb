./benchmark_refit_sbatch.sh \
    --tensor-model-parallel-size 2 \    # TP=2
    --expert-model-parallel-size 2 \    # EP=2
    --num-experts 16 \                  # MoE enabled
    # ❌ Missing: ETP defaults to TP=2, bias enabled → FAILS
