./benchmark_refit_sbatch.sh \
    --tensor-model-parallel-size 2 \
    # No --num-experts → Not MoE → No ETP restriction
