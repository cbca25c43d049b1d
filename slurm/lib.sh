# The body that all job scripts share; sourced, not run. Rules behind it:
# - what to do after a step is decided from what is on disk, not from srun's status: with --kill-on-bad-exit that is often the
#   status of a task that was only cleaned up, and it can be 0 for a lost node;
# - requeue only while the job is RUNNING, so that a cancelled job does not come back;
# - a failure that another try cannot mend (pre-flight, bad recipe) ends for good, with its own status.
set -uo pipefail

cd "${SLURM_SUBMIT_DIR:-$PWD}" || exit 1
[[ -f slurm/lib.sh ]] || { echo "error: $PWD holds no slurm/lib.sh; submit from the project's root" >&2; exit 2; }
source slurm/site.sh

BAD_INPUT=2 PREFLIGHT_FAILED=3
attempt=${SLURM_RESTART_COUNT:-0}
# An element of an array is named ARRAY_TASK: for one of them the plain number is that of the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-${SLURM_JOB_ID:-none}}

say() { echo "[$(date +%FT%T) job $job attempt $attempt] $*"; }
finish() { say "end: $2"; exit "$1"; }   # STATUS WHY
job_field() { scontrol -o show job "$SLURM_JOB_ID" | grep -oE "(^| )$1=[^ ]*" | cut -d= -f2 | head -n 1; }

again() {  # WHY: put this job back into the queue
    [[ $(job_field JobState) == RUNNING ]] || finish 1 "$1; not requeued, the job is being ended from outside"
    say "requeue: $1"
    # Slurm may end scontrol, a child of this job, before it can say that all went well.
    scontrol requeue "$job" || [[ $(job_field JobState) != RUNNING ]] || finish 1 "Slurm refused to requeue"
    exit 0
}

options() {  # ARGUMENTS of a job script: RECIPE [--output DIR] [key.path=value ...]
    [[ $# -ge 1 && -f $1 ]] || finish $BAD_INPUT "first argument '${1:-}' is no recipe file; give RECIPE.yaml"
    recipe=$1 overrides=() output=
    shift
    while (($#)); do
        case $1 in
            --output) output=${2:?--output wants a folder}; shift 2 ;;
            --phase) phase=${2:?--phase wants a name}; shift 2 ;;
            *=*) overrides+=("$1"); shift ;;
            *) finish $BAD_INPUT "unknown argument '$1'; RECIPE.yaml [--phase NAME] [--output DIR] [key.path=value ...]" ;;
        esac
    done
    site_setup
    output=${output:-runs/$("$PYTHON" -m megatron_mmbert.config.show "$recipe" name "${overrides[@]}")} || exit $BAD_INPUT
}

on_nodes() {  # COMMAND...: once on each node
    srun --kill-on-bad-exit=1 --ntasks-per-node=1 --label "${SITE_CONTAINER[@]}" "$@"
}

where() { "$PYTHON" -m megatron_mmbert.train.where "$output" "$phase"; }   # "STEP finished|unfinished"

train_phase() {  # train $phase of $recipe into $output, through requeues, until it is finished
    local logs=$output/$phase/logs before after status
    mkdir -p "$logs" || finish $PREFLIGHT_FAILED "cannot make $logs"
    before=$(where) || finish $BAD_INPUT "cannot tell where phase $phase stands"
    [[ $before != *" finished" ]] || finish 0 "phase $phase is finished already (step ${before% *})"
    say "phase $phase on $SLURM_JOB_NODELIST, $MMBERT_PROCESSES_PER_NODE processes a node, from step ${before% *}"

    local gpus=0
    [[ $MMBERT_NEEDS_GPUS != yes ]] || gpus=$MMBERT_PROCESSES_PER_NODE
    local records=$logs/preflight-$job-$attempt
    on_nodes "$PYTHON" -m megatron_mmbert.preflight "$recipe" --output "$output" --gpus "$gpus" \
        --min-free-gb "$MMBERT_MIN_FREE_GB" --record "$records" "${overrides[@]}" &&
        "$PYTHON" -m megatron_mmbert.preflight --compare "$records" --nodes "$SLURM_NNODES" ||
        finish $PREFLIGHT_FAILED "pre-flight failed; the lines above say where"

    launch "$logs"
    status=$?
    after=$(where) || after="0 unfinished"
    say "the step ended with $status; step ${before% *} -> ${after% *}"
    [[ $after != *" finished" ]] || { rm -f "$logs/stalls"; finish 0 "phase $phase is finished (step ${after% *})"; }
    if ((warned)); then again "the time limit is near"; fi
    local preempted
    preempted=$(job_field PreemptTime)
    [[ -z $preempted || $preempted == None ]] || again "preempted"
    [[ ! -e $output/$phase/stopped.json ]] || again "stopped on request"
    if [[ -e $output/$phase/failed.json ]]; then
        finish $BAD_INPUT "$(sed -n 's/.*"error": "\(.*\)"/\1/p' "$output/$phase/failed.json")"
    fi
    local why="failed with $status"  # a lost or hung rank ends with 76, but torchrun always with 1: the record tells
    [[ ! -e $output/$phase/interrupted.json ]] || why=$(sed -n 's/.*"reason": "\(.*\)".*/\1/p' "$output/$phase/interrupted.json")
    if ((${after% *} > ${before% *})); then
        echo 0 >"$logs/stalls"
    else
        echo $(($(cat "$logs/stalls" 2>/dev/null || echo 0) + 1)) >"$logs/stalls"
    fi
    (($(cat "$logs/stalls") < MMBERT_MAX_STALLS)) ||
        finish 1 "failed $MMBERT_MAX_STALLS times in a row without a new checkpoint, the last time: $why; see $logs"
    again "$why"
}

launch() {  # LOGS: one torchrun on each node; returns srun's status, sets $warned
    local head
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    export RENDEZVOUS=$head:$((20000 + SLURM_JOB_ID % 20000)) RUN_ID=$job-$attempt
    export PYTHON MMBERT_PROCESSES_PER_NODE LOGS=$1 ATTEMPT=$attempt
    # Slurm's end of this allocation, so that training stops by itself in time, whatever becomes of the warning.
    MMBERT_END_TIME=$(date -d "$(job_field EndTime)" +%s 2>/dev/null) && export MMBERT_END_TIME
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # since 22.05 srun does not inherit --cpus-per-task
    local share=$((${SLURM_CPUS_PER_TASK:-1} / MMBERT_PROCESSES_PER_NODE))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
    export PYTHONFAULTHANDLER=1 PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore

    # Expanded on each node. Slurm signals every process of a step. The torchrun agent would die of USR2, and on TERM give its
    # workers little time: it ignores both, the workers hear them themselves, and it ends when they end.
    # is_host: torchrun otherwise guesses from host names who serves the rendezvous, and waits for ever where none does.
    local node='
trap "" USR2 TERM
host=false; [[ $SLURM_NODEID == 0 ]] && host=true
exec "$PYTHON" -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc-per-node "$MMBERT_PROCESSES_PER_NODE" \
    --max-restarts 0 --signals-to-handle SIGINT,SIGHUP --rdzv-backend c10d --rdzv-endpoint "$RENDEZVOUS" --rdzv-id "$RUN_ID" \
    --rdzv-conf "is_host=$host,timeout=600" --shutdown-timeout 20 \
    -m megatron_mmbert.pretrain "$@"'
    warned=0
    rm -f "$output/$phase"/{stopped,failed,interrupted}.json
    srun --kill-on-bad-exit=1 --wait=60 --ntasks-per-node=1 --output="$1/node-%n-attempt-$attempt.log" --open-mode=append \
        "${SITE_CONTAINER[@]}" bash -c "$node" launch "$recipe" --phase "$phase" --output "$output" \
        "${overrides[@]}" &
    step=$!
    trap warn USR2
    trap 'say "the batch script got SIGTERM"' TERM
    watch_heartbeat &
    local watcher=$! status
    while :; do  # a trapped signal ends `wait` early
        wait "$step"
        status=$?
        kill -0 "$step" 2>/dev/null || break
    done
    kill "$watcher" 2>/dev/null
    return $status
}

warn() {  # Slurm says that the end is near: tell every worker, again and again, as one that is still starting hears nothing
    ((warned)) && return
    warned=1
    say "warned: the end of the allocation is near; every rank ends its step and saves"
    (
        trap - USR2 TERM
        while kill -USR2 "$step" 2>/dev/null; do sleep 5; done
    ) &
}

watch_heartbeat() {  # end the step when training gives no sign of life
    trap - USR2 TERM
    local beat=$output/$phase/heartbeat.json age
    touch "$beat"
    while sleep 10; do
        age=$(($(date +%s) - $(stat -c %Y "$beat")))
        if ((age > MMBERT_HANG_SECONDS)); then
            say "no sign of life for $age s (last: $(cat "$beat")); ending the step"
            kill -TERM "$step"
            return
        fi
    done
}
