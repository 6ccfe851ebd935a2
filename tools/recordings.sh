#!/bin/bash
# How recordings in results/ were made, to make them again: from the top of the repository, with
# vdkit's Python on the path, on a machine that does nothing else,
#     tools/recordings.sh fast fanout split latents
# takes the GPUs there are. Every command prints its seconds; one that fails is named at the end.
set -uo pipefail
out=${OUT:-results} scratch=${SCRATCH:-/dev/shm/vdkit-recordings}
gpus=${GPUS:-$(python -c 'import torch; print(torch.cuda.device_count())')}
decoder=${DECODER:-wan2.1} variants=${VARIANTS:-fast diffusers} clip=${CLIP:-161x480x832}
sinks=${SINKS:-raw mp4,encoders=4}
failed=()

run() {
    local begin=$SECONDS
    echo "+ $*"
    "$@" || failed+=("$*")
    echo "  $((SECONDS - begin)) s"
}

counts() { for n in 1 2 4 8; do [ "$n" -gt "$gpus" ] || echo "$n"; done; }

bench() {
    run python -m vdkit bench --modes compute_only --dtype float16 --no-families --out "$out" "$@"
}

# The fast decoder beside the others, after its kernels were tuned.
fast() {
    for size in 480x832 720x1280; do
        bench --decoder wan2.1 --latents "random:81x$size" --variants diffusers,fast --runs 2 \
            --tune force --label "z16-$size-tuned"
        bench --decoder wan2.1 --latents "random:81x$size" --variants diffusers,fast --runs 3 \
            --label "z16-$size"
    done
    bench --decoder wan2.2 --latents random:121x704x1280 --variants all --runs 2 \
        --label z48-121-frames
    bench --decoder wan2.2 --latents random:41x704x1280 --variants diffusers,fast --runs 3 \
        --label z48-41-frames
}

# Many videos: on 1, 2, 4, 8 GPUs, raw and MP4; eight videos a GPU, of diffusers' modules four.
fanout() {
    mkdir -p "$scratch"
    python -c "from vdkit import load_decoder, load_latents, save_latents
save_latents('$scratch/clip.safetensors', load_latents('clips:$clip', load_decoder('$decoder')))"
    for variant in $variants; do
        for sink in $sinks; do
            for n in $(counts); do
                local made=$scratch/$variant-$n
                local many=$((n * $([ "$variant" = fast ] && echo 8 || echo 4)))
                for ((k = 0; k < many; k++)); do
                    echo "{\"latents\": \"clip.safetensors\", \"out\": \"$k.${sink%%,*}\"}"
                done >"$scratch/many.jsonl"
                run python -m vdkit fanout "$scratch/many.jsonl" --out "$made" --workers "$n" \
                    --engine "${ENGINE:-ray}" --decoder "$decoder" --variant "$variant" \
                    --sink "$sink" --grain 3 --label "fanout-$n-$variant-${sink%%,*}"
                find "$made" -name fanout.json -printf '%h\n' | xargs -I{} cp -r {} "$out"
                rm -rf "$made"
            done
        done
    done
}

# One video over 2, 4, 8 GPUs, and what each takes by cause.
split() {
    for n in $(counts | tail -n +2); do
        for variant in $variants; do
            run python -m tools.split_times --gpus "$n" --variant "$variant" --out "$out" \
                --decoder wan2.1 --latents random:81x720x1280
            run python -m tools.split_times --gpus "$n" --variant "$variant" --out "$out" \
                --decoder wan2.2 --latents random:121x704x1280
        done
    done
}

# Latents for video: trained, then measured; weights come to data/structures.
latents() {
    local home=${MODELS:-data/structures} of=python\ -m\ data.structures smoke=${SMOKE:+--smoke}
    run $of.together --run "$scratch/structures" --minutes "${MINUTES:-8}" --export "$home" $smoke
    for stage in train export measure; do
        run $of.upsample $stage --run "$scratch/upsampler" --minutes 3 --model "$home/upsampler" \
            --out "$out" $smoke
    done
    for models in "$home" data/tiny-wan; do run $of.evaluate "$models" --out "$out" $smoke; done
    run $of.windows_study --out "$out" $smoke
    for kind in cost training length; do run $of.cost $kind --out "$out" $smoke; done
    [ -z "$smoke" ] || return 0 # what follows is not small
    local made=()
    for name in z16-8x8x4 z16-16x16x4; do
        local at=$scratch/denoiser-$name vae="$home/$name"
        run python data/tiny-wan/train.py diffusion --run "$at" --vae "$vae" --experts 1 \
            --steps 2500 --batch 128 --clips 5000 --minutes 4
        run python data/tiny-wan/train.py export --run "$at" --vae "$vae" --out "$at/pipeline"
        python data/tiny-wan/evaluate.py --model "$at/pipeline" --out "$at/pipeline/metrics.json" \
            --prompts 40 --clips 8 --scratch "$at/clips" # its targets are not these
        made+=("$at/pipeline")
    done
    run $of.cost generation --out "$out" --pipelines "${made[@]}"
    run $of.claims "$out"
}

for step in "$@"; do
    case $step in
    fast | fanout | split | latents) "$step" ;;
    *) echo "step '$step' is unknown; use fast, fanout, split, latents" >&2 && exit 2 ;;
    esac
done
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" >&2 && exit 1; }
