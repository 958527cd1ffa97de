# shellcheck shell=bash
# What the bash of a session reads when it starts. session-resume.sh follows it; in front of it stand stdenv.sh and before that the
# values of:
#   nbsShell        how this shell is started again
#   nbsTop          the build directory in the sandbox
#   nbsDirectory    what a session has of its own: this file, and a directory `state` to write to
#   nbsName         the package, for the prompt
#   nbsPhase        the phase that failed; nothing where it is not known, and «-» where all are done
#   nbsStart        where that phase began, or nothing where env-vars tells
#   nbsSourceRoot   where phases begin if there is no env-vars: the directory of the sources, as the build's log tells it, or nothing
#   nbsSearchPath   what is appended to PATH: a colon and a directory each
#   nbsMadeOutputs  the outputs that the phase that failed has made, and those before it had not
#
# What comes from the build is read out here and not in a function, where `declare` would make local variables.
# shellcheck disable=SC1090,SC1091,SC2154

nbsShowOptions() {
    shopt -p
    shopt -po nounset pipefail noclobber noglob xtrace
}
nbsSay() { printf 'nix-build-shell: %s\n' "$*" >&2; }

nbsOptions=$(nbsShowOptions)
# In a second terminal: how far `resume` came in the first.
if [[ -s $nbsDirectory/state/phase ]]; then
    { IFS= read -r -d '' nbsPhase && IFS= read -r -d '' nbsStart && IFS= read -r -d '' nbsFound; } < "$nbsDirectory/state/phase"
fi
nbsRemembered=$nbsStart
nbsStart=${nbsStart:-$nbsTop/$nbsSourceRoot}

# Nothing was built yet.
nbsIsFresh=
[[ -n $nbsPhase || -e $nbsTop/env-vars ]] || nbsIsFresh=yes

# --- The build's variables and stdenv's functions ----------------------------------------------------------------------

if [[ -e $nbsTop/env-vars ]]; then
    source "$nbsTop/env-vars"
    # A build without a sandbox was elsewhere.
    nbsStart=${nbsRemembered:-$PWD}
    [[ -z ${NIX_BUILD_TOP-} || $nbsStart/ != "$NIX_BUILD_TOP"/* ]] || nbsStart=$nbsTop${nbsStart:${#NIX_BUILD_TOP}}
    # stdenv looks for files beside it, as at the start of a build. `cd` also mends what env-vars has made of PWD.
    cd "$nbsTop" || true
fi

for nbsFile in "${NIX_ATTRS_SH_FILE-}" "$nbsTop/.attrs.sh"; do
    if [[ -r $nbsFile ]]; then
        source "$nbsFile"
        break
    fi
done

if [[ -n ${nbsSetupStatus-} ]]; then
    nbsSay "stdenv's setup ended with status $nbsSetupStatus, so its functions are not there"
    unset nbsSetupStatus
elif [[ -n ${stdenv-} && -e $stdenv/setup ]]; then
    # An error, or an `exit`, in setup or in one of its hooks ends this shell. Then there is another, without them.
    exec {nbsOutput}>&1 > /dev/null
    builtin trap 'export nbsSetupStatus=$?; exec -a bash "$nbsShell" --rcfile "$nbsDirectory/session.sh" >&"$nbsOutput" {nbsOutput}>&-' EXIT
    builtin trap : INT
    # Its own trap takes the end of the shell for the end of the build.
    trap() {
        if ((BASH_SUBSHELL == 0)) && [[ " ${*:2} " == *\ @(EXIT|0)\ * ]]; then return; fi
        builtin trap "$@"
    }
    # Setup would write an env-vars of its own.
    nbsDumps=${noDumpEnvVars-unset}
    noDumpEnvVars=1
    source "$stdenv/setup"
    set +eu
    if [[ $nbsDumps == unset ]]; then unset noDumpEnvVars; else noDumpEnvVars=$nbsDumps; fi
    unset -f trap
    trap - EXIT ERR DEBUG RETURN INT TERM HUP QUIT
    exec >&"$nbsOutput" {nbsOutput}>&-
    unset nbsOutput nbsDumps
    [[ ! -e $nbsTop/env-vars ]] || source "$nbsTop/env-vars"
    cd "$nbsTop" || true
fi

# What the build's shell has, a person does not want; `resume` does.
nbsBuildOptions=
while IFS= read -r nbsOption; do
    [[ $'\n'$nbsOptions$'\n' == *$'\n'"$nbsOption"$'\n'* ]] || nbsBuildOptions+=$nbsOption$'\n'
done < <(nbsShowOptions)
eval "$nbsOptions"
set +eu
unset nbsFile nbsOption nbsOptions

[[ -z $nbsSearchPath ]] || PATH+=$nbsSearchPath

# The copy's own directories only: the name is the build's.
nbsPhaseDirectory=$(
    cd -P "$nbsTop" && top=$PWD
    if cd -P -- "$nbsStart" && [[ $PWD/ == "$top"/* ]]; then echo "${nbsStart%/}"; else echo "$nbsTop"; fi
) 2> /dev/null
cd -- "$nbsPhaseDirectory" || true
unset nbsStart nbsRemembered

# --- The phases --------------------------------------------------------------------------------------------------------

# The phases that the build runs, in their order, a line each.
nbsPhases() {
    local phase
    for phase in $(nbsAllPhases); do nbsIsLeftOut "$phase" || echo "$phase"; done
}

nbsHasPhases() {
    if ! nbsIsFunction genericBuild; then
        nbsSay "there are no phases without stdenv"
        return 125
    elif [[ -n ${buildCommandPath-} || -n ${buildCommand-} ]]; then
        nbsSay "this build has no phases but one command; «genericBuild» runs it"
        return 125
    fi
}

# How phases ended that were run one by one in this session, which did not lead the build on.
declare -A nbsRan=()

# phases: what was done, what failed, and what was not reached.
phases() {
    if (($# > 0)); then
        nbsSay "phases takes nothing, and lists all; «runPhase PHASE» and «resume PHASE» run one"
        return 125
    fi
    nbsHasPhases || return
    local phase all state=done
    all=$'\n'$(nbsPhases)$'\n'
    if [[ -n $nbsIsFresh && -z $nbsPhase ]]; then
        state='not reached'
    elif [[ -z $nbsPhase ]]; then
        nbsSay "which phase failed is not known"
        state=
    elif [[ $nbsPhase != - && $all != *$'\n'"$nbsPhase"$'\n'* ]]; then
        nbsSay "$nbsPhase failed, which is none of the phases"
        state=
    fi
    for phase in $all; do
        if [[ $phase == "$nbsPhase" ]]; then
            nbsListPhase "$phase" failed
            state='not reached'
        else
            nbsListPhase "$phase" "$state"
        fi
    done
}

# nbsMark begin|end: notes when phases run, so that what they make is told from what somebody writes. By the clock of files, which ticks
# 100 times a second and more, all that was written before is older than the begin, and all that is written later younger than the end.
# What was written before, since phases ran last, is listed; a phase in the background is not «alone».
nbsMark() {
    local nbsNow nbsTime nbsSince=$nbsDirectory/state/phase-times nbsAlone=
    nbsMarked=${1#end}
    if [[ $1 == begin ]] && ((BASH_SUBSHELL == 0)); then
        [[ -e $nbsSince ]] || nbsSince=$nbsDirectory/state/outputs
        if command find "$nbsTop" -cnewer "$nbsSince" ! -type d -print0 >> "$nbsDirectory/state/typed" 2> /dev/null; then nbsAlone=' alone'; fi
    fi
    nbsGetTime
    nbsTime=$nbsNow
    if [[ $1 == begin ]]; then
        : >| "$nbsDirectory/state/before"
        nbsAwaitTick "$nbsDirectory/state/before"
    fi
    printf '%s %s %s%s\n' "$1" "$$" "$nbsTime" "$nbsAlone" >> "$nbsDirectory/state/phase-times"
    [[ $1 == begin ]] || nbsAwaitTick "$nbsDirectory/state/phase-times"
}

nbsGetTime() {
    if [[ -n ${EPOCHREALTIME-} ]]; then nbsNow=$EPOCHREALTIME; else printf -v nbsNow '%(%s)T' -1; fi
}

# nbsAwaitTick FILE: returns as soon as what is written is younger than FILE, which has just been written. `nbsTime` lies before that tick.
nbsAwaitTick() {
    while :; do
        : >| "$nbsDirectory/state/tick" || return
        if [[ $nbsDirectory/state/tick -nt $1 ]]; then return; fi
        nbsTime=$nbsNow
        nbsGetTime
    done
}

nbsListPhase() {
    case ${nbsRan[$1]-} in
        '') printf '%-20s %s\n' "$1" "$2" ;;
        0) printf '%-20s %s\n' "$1" "${2:+$2; }run in this session, it succeeds" ;;
        -) printf '%-20s %s\n' "$1" "${2:+$2; }run in this session, and interrupted" ;;
        *) printf '%-20s %s\n' "$1" "${2:+$2; }run in this session, it fails with status ${nbsRan[$1]}" ;;
    esac
}

# nbsAfresh COMMAND...: runs it as if it stood alone, and leaves its status in `nbsResult`. Where the status of all this is tested, as
# in front of «&&», bash would pass over every failure in it; but not in a trap.
nbsAfresh() {
    nbsCommand=("$@")
    trap 'trap - RETURN; "${nbsCommand[@]}"; nbsResult=$?' RETURN
}

# nbsInBuild WHAT FUNCTION ARG...: calls a function of stdenv in this shell as a builder would, but for the end: what would end the
# builder leads back here, with its status. Variables and directory stay.
nbsInBuild() {
    if [[ -n ${nbsDepth-} ]]; then
        nbsRan[$1]=-
        "${@:2}"
        nbsRan[$1]=$?
        return "${nbsRan[$1]}"
    fi
    local nbsStatus='' nbsResult='' nbsLevel=$BASH_SUBSHELL nbsDepth=${#FUNCNAME[@]}
    nbsTheirs=$(nbsShowOptions)
    nbsMark begin
    eval "$nbsBuildOptions"
    set -E +e
    trap 'nbsFail "$?"' ERR
    nbsAfresh "${@:2}"
    trap - ERR DEBUG
    nbsCalm
    # There is no result where bash itself gave up, as for a phase whose name is none.
    nbsStatus=${nbsStatus:-${nbsResult:-1}}
    # ^Z has stopped it with 148.
    if ((nbsStatus != 148)); then nbsNoteEnd "$1" "$nbsStatus"; fi
    if ((nbsStatus != 0 && nbsStatus != 148)); then nbsSay "$1 failed with status $nbsStatus"; fi
    return "$nbsStatus"
}

# nbsNoteEnd PHASE STATUS: notes how it ended, and what it had begun and not ended.
nbsNoteEnd() {
    local name
    nbsRan[$1]=$2
    for name in "${!nbsRan[@]}"; do
        if [[ ${nbsRan[$name]} == - ]]; then nbsRan[$name]=$2; fi
    done
}

# nbsFail STATUS: has every function return that was called by nbsInBuild, as with -e the shell would end.
nbsFail() {
    if ((BASH_SUBSHELL > nbsLevel)); then builtin exit "$1"; fi
    if [[ -z $nbsStatus ]]; then
        nbsStatus=$1
        set +e -T
        shopt -s extdebug
        trap nbsReturn DEBUG
    fi
}

# With `extdebug`, 2 has the function return in which a command was to be run.
nbsReturn() { if ((${#FUNCNAME[@]} > nbsDepth + 1)); then return 2; fi; }

# Ends what nbsInBuild has begun.
nbsCalm() {
    trap - RETURN
    set +ETe
    shopt -u extdebug
    eval "$nbsTheirs"
    nbsTheirs=
    nbsMark end
}

if nbsIsFunction genericBuild; then
    nbsHideFromTerminal
    if nbsIsFunction runPhase; then nbsRename runPhase nbsRunPhase; fi
    nbsRename genericBuild nbsGenericBuild
    runPhase() { nbsInBuild "$*" nbsRunPhase "$@"; }
    genericBuild() { nbsInBuild "${FUNCNAME[0]}" nbsGenericBuild "$@"; }
fi

# A phase that says `exit` is not to take the session with it: it leads back to the prompt.
exit() {
    local status=$?
    if ((BASH_SUBSHELL == 0 && ${#FUNCNAME[@]} > 1)); then
        nbsSay "${FUNCNAME[1]} called «exit${1+ $1}», and the session goes on"
        if [[ -n ${nbsDepth-} ]]; then
            nbsFail "${1-$status}"
            return
        fi
        # As ^C does.
        kill -INT "$BASHPID"
    fi
    builtin exit "${@-$status}"
}

# --- The prompt and the history ----------------------------------------------------------------------------------------

# shellcheck disable=SC2016
PS1='[nix-build-shell '$nbsName'${nbsPhase:+:${nbsPhase/#-/done}}] $PWD \$ '
unset PROMPT_COMMAND PS0
# ^C may have ended what a phase runs with.
PROMPT_COMMAND='[[ -z ${nbsTheirs-} ]] || { trap - ERR DEBUG; nbsCalm; }; [[ -z ${nbsMarked-} ]] || nbsMark end'
if [[ $(type -t history) == builtin ]]; then
    HISTFILE=$nbsDirectory/state/history
    HISTSIZE=2000
    HISTFILESIZE=-1
    unset HISTTIMEFORMAT
    HISTCONTROL=ignoredups
    shopt -s histappend
    # Now and not at the end, so that a session that is killed has a history too.
    PROMPT_COMMAND+='; history -a'
fi
