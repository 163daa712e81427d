"""GRPO by TRL on a language model with a real vocabulary: what recording it costs."""
import itertools
import tempfile
from contextlib import nullcontext
from pathlib import Path

from harness import compare
from real import adapters, big_tokenizer, cut_model


def recorder_vs_trl(quick: bool) -> dict:
    import trl
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback

    from ad_distill.recorders.trl import RolloutRecorder
    layers, updates, pairs, tokens = (1, 1, 1, 4) if quick else (2, 2, 3, 24)
    disable_progress_bars()

    def variety(completions, **kwargs): return [len(set(c)) / 20 for c in completions]

    def trainer_of(folder, reward):
        args = trl.GRPOConfig(
            output_dir=folder, learning_rate=1e-6, max_steps=updates, per_device_train_batch_size=16, num_generations=8,
            max_completion_length=tokens, beta=0., use_cpu=True, bf16=False, gradient_checkpointing=False,
            report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True)
        prompts = Dataset.from_dict({"prompt": [f"The film number {i} was one of those that" for i in range(32)]})
        trainer = trl.GRPOTrainer(cut_model(layers), reward, args, prompts, processing_class=big_tokenizer(),
                                  peft_config=adapters())
        trainer.remove_callback(PrinterCallback)
        return trainer

    with tempfile.TemporaryDirectory() as folder:
        recorder, numbers = RolloutRecorder(), itertools.count()
        recorded, bare = trainer_of(folder, recorder.listen(variety)), trainer_of(folder, variety)

        def run(trainer, recording):
            with recording: trainer.train()
            return updates

        def ours(): return run(recorded, recorder.record(recorded, Path(folder) / f"store{next(numbers)}"))
        def theirs(): return run(bare, nullcontext())
        result = compare(ours, theirs, pairs)
    what = (f"{updates} updates of 16 rollouts of {tokens} tokens, {layers} layers of width 576 with 49,152 tokens, "
            f"LoRA, written to a store; theirs: TRL {trl.__version__} without a recorder")
    return {**result, "unit": "updates per CPU-second", "target": {"ratio": .95}, "what": what}
