#!/bin/sh
# finetune.sh RECORDINGS WORK [OPTIONS OF snac-trainer train]
#
# Fine-tunes the decoder on RECORDINGS, a folder with a folder for each speaker, and leaves in WORK:
# dataset/, run/, report/report.html with samples to listen to, and models/, a store to serve.
set -eu
recordings=$1 work=$2
shift 2
here=$(dirname "$0")

# Speakers are on one side only: a voice that was trained on says little of one that was not.
snac-trainer prepare --input-dir "$recordings" --output-dir "$work/dataset" --group-by folder \
    --train-ratio 0.8 --flac

snac-trainer train --config "$here/dialect.json" \
    --set "train_data=$work/dataset/train" --set "val_data=$work/dataset/val" \
    --set "output_dir=$work/run" --set "publish_to=$work/models" "$@"

snac-trainer evaluate --base starter --model "$work/run/best_model.pt" --run "$work/run" \
    --data "$work/dataset/val" --output-dir "$work/report"

# The encoder and the quantizer are those of the base, so tokens mean what they meant.
snac-codec inspect starter | grep 'token space'
snac-codec inspect "$work/run/best_model.pt" | grep 'token space'
