# shellcheck shell=bash disable=SC2034
# Sourced by every script here:  source environment.sh STAGE SITE RECIPE [KEY=VALUE]...
# Reads the site file, prepares the stage's environment, and defines
#   stage                 name of the stage
#   recipe                the recipe and its overrides, as megatron-ipt takes them
#   in_srun, in_step      options of srun, and what goes in front of a command, for the stage's container if it has one
#   data_stage CMD...     runs CMD as a job step; near the time limit the job is requeued, and resumes
#   host_python           a Python with megatron-ipt on the host, outside any container, for what calls Slurm

set -euo pipefail
stage=$1 site=$2
recipe=("${@:3}")
# shellcheck source=/dev/null
source "$site"

# STAGE_NAME if the site sets it for this stage, else NAME. ^^ makes upper case. The jobs that complete a stage use the
# settings of MERGE.
software=${MEGATRON_IPT_SOFTWARE:-$stage}
setting() {
    local own="${software^^}_$1"
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

# pyxis adds options to srun, apptainer is a command in front of the command.
in_srun=() in_step=()
image=$(setting PYXIS_IMAGE)
if [[ -n $image ]]; then
    in_srun=(--container-image="$image" --container-mounts="$(setting CONTAINER_MOUNTS)" --container-workdir="$PWD")
fi
image=$(setting APPTAINER_IMAGE)
if [[ -n $image ]]; then
    in_step=(apptainer exec --nv --bind "$(setting CONTAINER_MOUNTS)" --pwd "$PWD" "$image")
fi

# Since Slurm 22.05 srun does not inherit --cpus-per-task.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# The name by which scontrol knows this job. The last task of an array has the array's own id as SLURM_JOB_ID.
this_job=$SLURM_JOB_ID
if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
    this_job=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}
fi

# Waits for a background process: bash runs a trap immediately only during wait, not while a foreground command runs.
wait_for() {
    local status=0 again=0
    wait "$1" || status=$?
    while kill -0 "$1" 2>/dev/null; do
        status=0
        wait "$1" || status=$?
    done
    # A signal may have interrupted the wait just when the process ended.
    wait "$1" 2>/dev/null || again=$?
    [[ $again -eq 127 ]] || status=$again
    return "$status"
}

requeue() {
    echo "$1; requeued"
    scontrol requeue "$this_job"
    # Exiting now could count as completion before the requeue takes effect.
    sleep 120
}

data_stage() {
    local child status=0 asked=
    srun --kill-on-bad-exit=1 "${in_srun[@]}" "${in_step[@]}" "$@" &
    child=$!
    # TERM to srun would kill the stage; to the steps of the job it lets the stage clean up.
    trap 'asked=1; scancel --signal=TERM "$this_job"' USR1
    wait_for "$child" || status=$?
    if [[ -n $asked && $status -ne 0 ]]; then
        requeue "$stage: time limit near, finished units are kept"
    fi
    return "$status"
}

# The exit status, for megatron-ipt status after Slurm has forgotten the job.
if [[ -n ${MEGATRON_IPT_EXITS:-} ]]; then
    trap 'echo "$?" >"$MEGATRON_IPT_EXITS/$this_job"' EXIT
fi

echo "$stage: job $this_job, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST"
