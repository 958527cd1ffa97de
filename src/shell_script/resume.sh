# shellcheck shell=bash
# Runs phases of a failed build, as stdenv's genericBuild would have gone on. Bash reads it as a file, with -e, and with the variables in
# its environment that were exported when the failed phase began.
#
# resume.sh from PHASE DIRECTORY   PHASE, which begins in DIRECTORY, and all after it
# resume.sh only PHASE DIRECTORY   PHASE alone
exec 9<&-
_resume_how=$1 _resume_phase=${2-} _resume_directory=${3-}
set --
# stdenv derives some of these from others, and would do so a second time.
_resume_exported=$(export -p)
_resume_before=${OLDPWD-}

# Not in a function: what is declared there is gone when it returns.
if [[ -e ${NIX_ATTRS_SH_FILE-} ]]; then
    # shellcheck disable=SC1090
    source "$NIX_ATTRS_SH_FILE"
elif [[ -e $NIX_BUILD_TOP/.attrs.sh ]]; then
    source "$NIX_BUILD_TOP/.attrs.sh"
fi
# shellcheck disable=SC1091,SC2154
source "$stdenv/setup"

# _resume_refuse STATUS TEXT: end, without what stdenv does at the end of a build.
_resume_refuse() {
    trap - EXIT
    printf 'nix-build-shell: %s\n' "$2" >&2
    exit "$1"
}

_resume_is_function() { [[ $(type -t "$1") == function ]]; }

# As stdenv, which takes a variable of that name for the phase, or else a function.
_resume_can_run() { [[ -n ${!1-} ]] || _resume_is_function "$1"; }

# The variable that has a phase left out, and whether it does.
_resume_is_left_out() {
    local name=${1%Phase}
    case $1 in
        checkPhase | installCheckPhase | distPhase)
            _resume_switch=do${name^}
            [[ -z ${!_resume_switch-} ]]
            ;;
        unpackPhase | patchPhase | configurePhase | buildPhase | installPhase | fixupPhase)
            _resume_switch=dont${name^}
            [[ -n ${!_resume_switch-} ]]
            ;;
        *) return 1 ;;
    esac
}

# What runPhase does, for a stdenv from before 2022, whose genericBuild did all this by itself.
_resume_run_phase() {
    curPhase=$1
    if _resume_is_left_out "$curPhase"; then return 0; fi
    if [[ -n ${NIX_LOG_FD-} ]]; then
        printf '@nix { "action": "setPhase", "phase": "%s" }\n' "$curPhase" >&"$NIX_LOG_FD"
    fi
    if _resume_is_function showPhaseHeader; then showPhaseHeader "$curPhase"; fi
    dumpVars
    eval "${!curPhase:-$curPhase}"
    if [[ $curPhase == unpackPhase ]]; then
        if [[ -n ${sourceRoot-} ]]; then chmod +x -- "$sourceRoot"; fi
        cd -- "${sourceRoot:-.}"
    fi
    if _resume_is_function stopNest; then stopNest; fi
}
if ! _resume_is_function runPhase; then
    runPhase() { _resume_run_phase "$@"; }
fi

# A variable that bash lets nobody set keeps its value.
eval "$_resume_exported" 2> /dev/null || :
if [[ $PWD != "$_resume_directory" ]]; then
    cd -- "$_resume_directory" 2> /dev/null ||
        _resume_refuse 125 "there is no directory $_resume_directory, in which $_resume_phase is to begin"
    if [[ -n $_resume_before ]]; then OLDPWD=$_resume_before; fi
fi

if _resume_is_function definePhases; then
    definePhases
elif [[ -z ${phases[*]-} ]]; then
    phases="${prePhases[*]-} unpackPhase patchPhase ${preConfigurePhases[*]-} configurePhase ${preBuildPhases[*]-} buildPhase \
        checkPhase ${preInstallPhases[*]-} installPhase ${preFixupPhases[*]-} fixupPhase installCheckPhase \
        ${preDistPhases[*]-} distPhase ${postPhases[*]-}"
fi

# shellcheck disable=SC2048,SC2206
_resume_all=(${phases[*]})
_resume_left=()
for _resume_index in "${!_resume_all[@]}"; do
    if [[ ${_resume_all[_resume_index]} == "$_resume_phase" ]]; then
        _resume_left=("${_resume_all[@]:_resume_index}")
        break
    fi
done
if [[ ${#_resume_left[@]} == 0 ]]; then
    # Alone, one can be run that is not among them.
    if [[ $_resume_how != only ]] || ! _resume_can_run "$_resume_phase"; then
        _resume_refuse 125 "there is no phase $_resume_phase; the phases are: ${_resume_all[*]}"
    fi
fi
if [[ $_resume_how == only ]]; then
    if _resume_is_left_out "$_resume_phase"; then
        _resume_refuse 125 "$_resume_phase is left out of this build by $_resume_switch, which is «${!_resume_switch-}»"
    fi
    _resume_left=("$_resume_phase")
fi
for _resume_each in "${_resume_left[@]}"; do
    runPhase "$_resume_each"
done
