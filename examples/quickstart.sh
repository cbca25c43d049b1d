#!/usr/bin/env bash
# From raw text to a Hugging Face multilingual encoder, on a laptop's CPU:
#   bash examples/quickstart.sh [OUT_DIR]      (default runs/quickstart)
# Installs into .venv, then trains a tokenizer, preprocesses the bundled corpus, trains the three phases (the last in three
# variants), merges the variants, exports the result and shows what it fills into masks. Run again, it goes on where it
# was stopped and redoes nothing that is done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(realpath -m "${1:-runs/quickstart}")
mkdir -p "$out"
source tools/setup_venv.sh user
export PYTHONWARNINGS=ignore  # Megatron-Core warns of every optional package that a CPU does without

corpus=examples/sample_corpus
recipe=(examples/quickstart.yaml "tokenizer.path=\"$out/tokenizer\"" "data.stores=[\"$out/store\"]"
        "evaluation.stores=[\"$out/heldout\"]")

step() { printf '\n== %s\n' "$*"; }
unless() {  # unless FILE COMMAND...: run the command if it has not made FILE yet
    local made=$1
    shift
    if [ -e "$made" ]; then echo "done already: $made"; else "$@"; fi
}

step "1/8 tokenizer: SentencePiece, and its Hugging Face twin"
unless "$out/tokenizer/tokenizer.json" "$PYTHON" -m megatron_mmbert train-tokenizer \
    --input $corpus/train --vocab-size 4096 --character-coverage 0.99 --output "$out/tokenizer"

step "2/8 text to token stores"
"$PYTHON" -m megatron_mmbert preprocess --input $corpus/train --tokenizer "$out/tokenizer" --output "$out/store"
"$PYTHON" -m megatron_mmbert preprocess --input $corpus/heldout --tokenizer "$out/tokenizer" --output "$out/heldout"

number=3
for phase in pretrain midtrain decay_eng decay_cont decay_all; do
    [ "$number" -gt 5 ] && number=5
    step "$number/8 phase $phase"
    "$PYTHON" -m megatron_mmbert pretrain "${recipe[@]}" --phase "$phase" --output "$out"
    number=$((number + 1))
done

step "6/8 merge of the three decay variants, as the recipe says (TIES)"
unless "$out/merged/checkpoint.json" "$PYTHON" -m megatron_mmbert merge --recipe "${recipe[@]}" --run "$out" \
    --output "$out/merged"
unless "$out/merged_bits_per_byte.json" "$PYTHON" -m megatron_mmbert bits-per-byte "$out/merged" \
    --recipe "${recipe[@]}" --output "$out/merged_bits_per_byte.json"

step "7/8 export to Hugging Face"
unless "$out/hf/config.json" "$PYTHON" -m megatron_mmbert convert-to-hf "$out/merged" --tokenizer "$out/tokenizer" \
    --output "$out/hf" --check

step "8/8 what came out"
"$PYTHON" -m megatron_mmbert report "$out"
"$PYTHON" -m megatron_mmbert fill-mask "$out/hf" --texts examples/fill_mask.tsv
printf '\nThe model is in %s; the pictures are in %s.\n' "$out/hf" "$out/report"
