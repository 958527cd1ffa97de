# shellcheck shell=bash
# What the bash of a session reads when it starts. In front of this text stand stdenv.sh and before that the values of:
#   nbsShell        how this shell is started again
#   nbsTop          the build directory in the sandbox
#   nbsDirectory    what a session has of its own: this file, and a directory `state` to write to
#   nbsName         the package, for the prompt
#   nbsPhase        the phase that failed, or nothing
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
nbsStart=$nbsTop/$nbsSourceRoot

# --- The build's variables and stdenv's functions ----------------------------------------------------------------------

if [[ -e $nbsTop/env-vars ]]; then
    source "$nbsTop/env-vars"
    # A build without a sandbox was elsewhere.
    nbsStart=$PWD
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
unset nbsStart

# --- The phases --------------------------------------------------------------------------------------------------------

# The phases that the build runs, in their order, a line each.
nbsPhases() {
    local phase
    for phase in $(nbsAllPhases); do nbsIsLeftOut "$phase" || echo "$phase"; done
}

nbsHasPhases() {
    if ! nbsIsFunction genericBuild; then
        nbsSay "there are no phases without stdenv"
        return 1
    elif [[ -n ${buildCommandPath-} || -n ${buildCommand-} ]]; then
        nbsSay "this build has no phases but one command; «genericBuild» runs it"
        return 1
    fi
}

# phases: what was done, what failed, and what was not reached.
phases() {
    nbsHasPhases || return
    local phase all state=done
    all=$'\n'$(nbsPhases)$'\n'
    if [[ -z $nbsPhase ]]; then
        nbsSay "which phase failed is not known"
        state=
    elif [[ $nbsPhase != - && $all != *$'\n'"$nbsPhase"$'\n'* ]]; then
        nbsSay "$nbsPhase failed, which is none of the phases"
        state=
    fi
    for phase in $all; do
        if [[ $phase == "$nbsPhase" ]]; then
            printf '%-20s failed\n' "$phase"
            state='not reached'
        else
            printf '%-20s %s\n' "$phase" "$state"
        fi
    done
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
        "${@:2}"
        return
    fi
    local nbsStatus='' nbsLevel=$BASH_SUBSHELL nbsDepth=${#FUNCNAME[@]}
    nbsTheirs=$(nbsShowOptions)
    eval "$nbsBuildOptions"
    set -E +e
    trap 'nbsFail "$?"' ERR
    nbsAfresh "${@:2}"
    trap - ERR DEBUG
    nbsCalm
    if ((nbsStatus != 0)); then nbsSay "$1 failed with status $nbsStatus"; fi
    return "${nbsStatus:-0}"
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

# --- Going on ----------------------------------------------------------------------------------------------------------

# Where a phase began that was run again in here, and the outputs that there were then.
declare -A nbsBegan=() nbsHad=()

nbsResumeHelp() {
    cat << 'END'
resume                 the phase that failed and all after it, until one fails
resume PHASE           PHASE and all after it; «resume --from PHASE» is the same
resume --only PHASE    PHASE alone

They run apart, as in the build; «runPhase PHASE» runs one in this shell, so that what it does to variables stays. «phases» lists the
phases.
END
}

# resume [[--from] PHASE | --only PHASE]: runs the phase that failed, or PHASE, and all that follow, until one fails.
resume() {
    local nbsHow=from nbsFirst='' nbsAll nbsEach nbsLast='' nbsPlace nbsThere nbsResult=0
    while (($# > 0)); do
        case $1 in
            -h | --help)
                nbsResumeHelp
                return
                ;;
            --from | --only)
                if (($# == 1)); then
                    nbsSay "$1 which phase? «phases» lists them"
                    return 2
                fi
                nbsHow=${1#--}
                shift
                ;;
            --from=* | --only=*)
                nbsHow=${1%%=*}
                nbsHow=${nbsHow#--}
                set -- "${1#*=}" "${@:2}"
                ;;
            -*)
                nbsSay "resume has no option $1; «resume --help» says what it has"
                return 2
                ;;
        esac
        if [[ -n $nbsFirst ]]; then
            nbsSay "resume takes one phase to begin with, not $nbsFirst and $1"
            return 2
        fi
        nbsFirst=$1
        shift
    done
    nbsHasPhases || return
    nbsFirst=${nbsFirst:-$nbsPhase}
    if [[ -z $nbsFirst || $nbsFirst == - ]]; then
        nbsSay "from which phase? «resume PHASE»"
        return 1
    fi
    nbsAll=$'\n'$(nbsPhases)$'\n'
    if nbsIsLeftOut "$nbsFirst"; then
        nbsSay "$nbsFirst is left out of this build by $nbsSwitch, which is «${!nbsSwitch-}»"
        return 1
    elif [[ $nbsHow == only ]] && nbsCanRun "$nbsFirst"; then
        nbsAll=$nbsFirst
    elif [[ $nbsAll == *$'\n'"$nbsFirst"$'\n'* ]]; then
        nbsAll=$nbsFirst$'\n'${nbsAll#*$'\n'"$nbsFirst"$'\n'}
    else
        nbsSay "$nbsFirst is none of the phases; «phases» lists them"
        return 1
    fi
    if [[ $'\n'$nbsAll$'\n' == *$'\n'unpackPhase$'\n'* ]] && nbsIsUnpacked; then
        nbsSay "the sources are unpacked already, and your changes are among them; outside of the sandbox «nix-build-shell resume --from unpackPhase» begins anew"
        return 1
    fi
    if [[ $nbsFirst == patchPhase ]]; then nbsSay "patchPhase meets what it has patched already"; fi
    nbsPutAway "$nbsFirst" || return
    : >| "$nbsDirectory/state/phases.$$"
    # shellcheck disable=SC2086
    nbsAfresh nbsResume $nbsAll
    # Stopped by ^Z, it goes on with «fg».
    if ((nbsResult == 148)); then return 148; fi
    while IFS= read -r -d '' nbsEach && IFS= read -r -d '' nbsPlace && IFS= read -r -d '' nbsThere; do
        nbsLast=$nbsEach
        nbsBegan[$nbsEach]=$nbsPlace
        nbsHad[$nbsEach]=$nbsThere
    done < "$nbsDirectory/state/phases.$$"
    : >| "$nbsDirectory/state/outputs"
    if ((nbsResult != 0)); then
        if [[ $nbsHow == from && -n $nbsLast ]]; then
            nbsPhase=$nbsLast
            nbsPhaseDirectory=${nbsBegan[$nbsLast]}
        fi
        nbsSay "${nbsLast:-$nbsFirst} failed with status $nbsResult"
        return "$nbsResult"
    elif [[ $nbsHow == only ]]; then
        nbsSay "$nbsFirst succeeds"
        return 0
    fi
    nbsPhase=-
    nbsListOutputs
}

nbsIsUnpacked() { [[ $nbsPhaseDirectory != "$nbsTop" || -n $nbsSourceRoot && -e $nbsTop/$nbsSourceRoot ]]; }

# nbsResume PHASE...: runs the phases one by one, apart, with nothing to read. One that fails, or that calls `exit`, ends no more than
# this.
nbsResume() (
    nbsDepth=apart
    nbsPlace=$(nbsWhere "$1")
    if ! cd -- "$nbsPlace" 2> /dev/null; then
        nbsSay "there is no directory $nbsPlace, in which $1 is to begin"
        builtin exit 125
    fi
    eval "$nbsBuildOptions"
    set -e
    if nbsIsFunction exitHandler; then trap exitHandler EXIT; fi
    nbsRecall "$1"
    for nbsEach; do
        printf '%s\0%s\0%s\0' "$nbsEach" "$PWD" "$(nbsOutputsThere)" >> "$nbsDirectory/state/phases.$$"
        nbsRunPhase "$nbsEach"
    done
) < /dev/null

# nbsWhere PHASE: the directory in which it begins: where it began before, or what failed did; one before that begins in the sources.
nbsWhere() {
    if [[ -n ${nbsBegan[$1]-} ]]; then
        echo "${nbsBegan[$1]}"
    elif [[ -z $nbsPhase || $nbsPhase == - || $1 == "$nbsPhase" ]] || nbsIsDoneBefore "$nbsPhase" "$1"; then
        echo "$nbsPhaseDirectory"
    elif nbsIsDoneBefore unpackPhase "$1"; then
        echo "$nbsTop/$nbsSourceRoot"
    else
        echo "$nbsTop"
    fi
}

# The paths of the outputs, each with its name in front, a line each.
nbsOutputs() {
    local names name
    if [[ $(declare -p outputs 2> /dev/null) == 'declare -A'* ]]; then
        names=("${!outputs[@]}")
    else
        # shellcheck disable=SC2206
        names=(${outputs-out})
    fi
    for name in "${names[@]}"; do echo "$name ${!name-}"; done
}

nbsIsThere() { [[ -e $1 || -L $1 ]]; }

# The paths of the outputs that there are.
nbsOutputsThere() {
    local name path
    while read -r name path; do
        if nbsIsThere "$path"; then printf '%s ' "$path"; fi
    done < <(nbsOutputs)
}

# nbsPutAway PHASE: has no outputs there but those that there were when PHASE began. What phases alone have made since, they make again;
# what somebody may have made by hand is kept beside it.
nbsPutAway() {
    local had path aside number=1
    if [[ -n ${nbsHad[$1]+known} ]]; then
        had=${nbsHad[$1]}
    elif [[ -n $nbsPhase && -n ${nbsHad[$nbsPhase]+known} ]] && ! nbsIsDoneBefore "$nbsPhase" "$1"; then
        had=${nbsHad[$nbsPhase]}
    else
        return 0
    fi
    for path in $(nbsOutputsThere); do
        if [[ " $had " == *" $path "* ]]; then continue; fi
        # A link in the place of a directory may lead anywhere.
        if [[ ! -L $path && -z $(find "$path" -cnewer "$nbsDirectory/state/outputs" -print -quit 2>&1) ]]; then
            chmod -R u+rwX -- "$path"
            rm -rf -- "$path" || return
            continue
        fi
        aside=$path-before-resume
        while nbsIsThere "$aside"; do
            number=$((number + 1))
            aside=$path-before-resume-$number
        done
        mv -- "$path" "$aside" || return
        nbsSay "$1 begins without $path, as in the build; what was there is in $aside now"
    done
}

# Says that all is done, and what there is now. Nix would miss an output that nobody made.
nbsListOutputs() (
    shopt -s nullglob dotglob
    lines=() missing=()
    while read -r name path; do
        if ! nbsIsThere "$path"; then
            missing+=("$name")
            continue
        fi
        lines+=("$name: $path")
        # Not `ls`, which a build need not have.
        [[ ! -d $path ]] || for entry in "$path"/*; do lines+=("    ${entry##*/}"); done
    done < <(nbsOutputs)
    if ((${#missing[@]} == 0)); then
        nbsSay "the build is complete"
    else
        nbsSay "every phase succeeds, but Nix would miss what they did not make: ${missing[*]}"
    fi
    ((${#lines[@]} == 0)) || printf '%s\n' "${lines[@]}"
    ((${#missing[@]} == 0))
)

# What the phase that failed found.
: >| "$nbsDirectory/state/outputs"
if [[ -n $nbsPhase ]]; then
    nbsHad[$nbsPhase]=
    for nbsPath in $(nbsOutputsThere); do
        [[ " $nbsMadeOutputs " == *" $nbsPath "* ]] || nbsHad[$nbsPhase]+="$nbsPath "
    done
    if nbsIsFunction genericBuild; then nbsRecall "$nbsPhase"; fi
fi
unset nbsPath nbsMadeOutputs

# --- The prompt and the history ----------------------------------------------------------------------------------------

# shellcheck disable=SC2016
PS1='[nix-build-shell '$nbsName'${nbsPhase:+:${nbsPhase/#-/done}}] $PWD \$ '
unset PROMPT_COMMAND PS0
# ^C may have ended what a phase runs with.
PROMPT_COMMAND='[[ -z ${nbsTheirs-} ]] || { trap - ERR DEBUG; nbsCalm; }'
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
