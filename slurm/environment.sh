# shellcheck shell=bash disable=SC2034
# Sourced by every script here:  source environment.sh STAGE SITE RECIPE [KEY=VALUE]...
# Reads the site file, prepares the stage's environment, and gives the script
#   recipe                the recipe and its overrides, as megatron-ipt takes them
#   step CMD...           runs CMD as a job step, in the stage's container if it has one
#   data_stage CMD...     the same for a data stage: near the time limit the job goes back to the queue and continues
#   host_python           a Python with megatron-ipt on the host itself, for what calls Slurm

set -euo pipefail
stage=$1 site=$2
recipe=("${@:3}")
# shellcheck source=/dev/null
source "$site"

# STAGE_NAME if the site sets it for this stage, else NAME. ${stage^^} is the stage in capitals.
setting() {
    local own="${stage^^}_$1"
    printf '%s' "${!own:-${!1:-}}"
}

for module in $(setting MODULES); do
    module load "$module"
done

host_python=$(setting HOST_PYTHON)
host_python=${host_python:-${MEGATRON_IPT_PYTHON:-python3}}

venv=$(setting VENV)
if [[ -n $venv ]]; then
    # shellcheck source=/dev/null
    source "$venv/bin/activate"
fi

# pyxis takes options of srun, apptainer stands before the command.
in_srun=() in_step=()
image=$(setting PYXIS_IMAGE)
if [[ -n $image ]]; then
    in_srun=(--container-image="$image" --container-mounts="$(setting CONTAINER_MOUNTS)" --container-workdir="$PWD")
fi
image=$(setting APPTAINER_IMAGE)
if [[ -n $image ]]; then
    in_step=(apptainer exec --nv --bind "$(setting CONTAINER_MOUNTS)" --pwd "$PWD" "$image")
fi

# Since Slurm 22.05 srun does not inherit it.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# The name by which scontrol knows this job. The last task of an array has the array's own id as SLURM_JOB_ID.
this_job=$SLURM_JOB_ID
if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
    this_job=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}
fi

step() {
    srun --kill-on-bad-exit=1 "${in_srun[@]}" "${in_step[@]}" "$@"
}

# Waits for a background process: a trap runs at once only while bash waits, not behind a command in the foreground.
wait_for() {
    local status=0 again=0
    wait "$1" || status=$?
    while kill -0 "$1" 2>/dev/null; do
        status=0
        wait "$1" || status=$?
    done
    # A signal may have cut the wait short in the instant in which the process ended.
    wait "$1" 2>/dev/null || again=$?
    [[ $again -eq 127 ]] || status=$again
    return "$status"
}

requeue() {
    echo "$1: back to the queue"
    scontrol requeue "$this_job"
    # Ending here could count as completion before the requeue takes hold.
    sleep 120
}

data_stage() {
    local child status=0 asked=
    step "$@" &
    child=$!
    trap 'asked=1; kill -TERM "$child"' USR1
    wait_for "$child" || status=$?
    if [[ -n $asked && $status -ne 0 ]]; then
        requeue "$stage: time is up, what is finished stays"
    fi
    return "$status"
}

# How the job ended, for megatron-ipt status after Slurm has forgotten it.
if [[ -n ${MEGATRON_IPT_EXITS:-} ]]; then
    trap 'echo "$?" >"$MEGATRON_IPT_EXITS/$this_job"' EXIT
fi

echo "$stage: job $this_job, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST"
