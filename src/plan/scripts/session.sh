# shellcheck shell=bash
# What the bash of a session reads when it starts. In front of this text stand the values of:
#   nbsShell        how this shell is started again
#   nbsTop          the build directory in the sandbox
#   nbsDirectory    what a session has of its own: this file, and a directory `state` to write to
#   nbsName         the package, for the prompt
#   nbsPhase        the phase that failed, or nothing
#   nbsSourceRoot   where phases begin if there is no env-vars: the directory of the sources, as the build's log tells it, or nothing
#   nbsSearchPath   what is appended to PATH: a colon and a directory each
#
# What comes from the build is read out here and not in a function, where `declare` would make local variables.
# shellcheck disable=SC1090,SC1091,SC2154

nbsOptions=$(
    shopt -p
    shopt -po nounset pipefail noclobber noglob xtrace
)
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
    echo "nix-build-shell: stdenv's setup ended with status $nbsSetupStatus, so its functions are not there" >&2
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
done < <(
    shopt -p
    shopt -po nounset pipefail noclobber noglob xtrace
)
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
unset nbsStart nbsSourceRoot

# --- The phases --------------------------------------------------------------------------------------------------------

# The phases that the build runs, in their order, a line each.
nbsPhases() (
    set +eu
    if [[ $(type -t definePhases) == function ]]; then
        definePhases
    elif [[ -z ${phases[*]-} ]]; then
        phases="${prePhases[*]} unpackPhase patchPhase ${preConfigurePhases[*]} configurePhase ${preBuildPhases[*]} buildPhase
            checkPhase ${preInstallPhases[*]} installPhase ${preFixupPhases[*]} fixupPhase installCheckPhase
            ${preDistPhases[*]} distPhase ${postPhases[*]}"
    fi
    # shellcheck disable=SC2048
    for phase in ${phases[*]}; do
        case $phase in
            checkPhase) [[ -n ${doCheck-} ]] ;;
            installCheckPhase) [[ -n ${doInstallCheck-} ]] ;;
            distPhase) [[ -n ${doDist-} ]] ;;
            unpackPhase | patchPhase | configurePhase | buildPhase | installPhase | fixupPhase)
                dont=${phase%Phase}
                dont=dont${dont^}
                [[ -z ${!dont-} ]]
                ;;
        esac && echo "$phase"
    done
    true
)

nbsHasPhases() {
    if [[ $(type -t genericBuild) != function ]]; then
        echo "nix-build-shell: there are no phases without stdenv" >&2
        return 1
    elif [[ -n ${buildCommandPath-} || -n ${buildCommand-} ]]; then
        echo "nix-build-shell: this build has no phases but one command; «genericBuild» runs it" >&2
        return 1
    fi
}

# phases: what was done, what failed, and what was not reached.
phases() {
    nbsHasPhases || return
    local phase all state=done
    all=$'\n'$(nbsPhases)$'\n'
    if [[ -z $nbsPhase ]]; then
        echo "nix-build-shell: which phase failed is not known" >&2
        state=
    elif [[ $nbsPhase != - && $all != *$'\n'"$nbsPhase"$'\n'* ]]; then
        echo "nix-build-shell: $nbsPhase failed, which is none of the phases" >&2
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

# resume [PHASE]: runs the phase that failed, or PHASE, and all that follow, until one fails.
resume() {
    nbsHasPhases || return
    local first=${1-$nbsPhase} all phase status
    if [[ -z $first || $first == - ]]; then
        echo "nix-build-shell: from which phase? «resume PHASE»" >&2
        return 1
    fi
    all=$(nbsPhases)
    if [[ $'\n'$all$'\n' != *$'\n'"$first"$'\n'* ]]; then
        echo "nix-build-shell: $first is none of the phases; «phases» lists them" >&2
        return 1
    fi
    all=$'\n'$all$'\n'
    all=$first$'\n'${all#*$'\n'"$first"$'\n'}
    # A phase that fails, or that calls `exit`, ends no more than this.
    (
        eval "$nbsBuildOptions"
        set -e
        if [[ $(type -t exitHandler) == function ]]; then trap exitHandler EXIT; fi
        [[ $first != "$nbsPhase" ]] || cd -- "$nbsPhaseDirectory"
        for phase in $all; do
            printf '%s\0%s\0' "$phase" "$PWD" > "$nbsDirectory/state/phase"
            # One at a time, by the function that every stdenv has.
            unset phases
            phases=$phase
            genericBuild
        done
    )
    status=$?
    if ((status != 0)); then
        { IFS= read -r -d '' nbsPhase && IFS= read -r -d '' nbsPhaseDirectory; } < "$nbsDirectory/state/phase"
        echo "nix-build-shell: $nbsPhase failed with status $status" >&2
        return "$status"
    fi
    nbsPhase=-
    echo "nix-build-shell: the build is complete" >&2
    nbsListOutputs
}

nbsListOutputs() (
    shopt -s nullglob dotglob
    if [[ $(declare -p outputs 2> /dev/null) == 'declare -A'* ]]; then
        names=("${!outputs[@]}")
    else
        # shellcheck disable=SC2206
        names=(${outputs-out})
    fi
    for name in "${names[@]}"; do
        path=${!name-}
        if [[ -d $path ]]; then
            # Not `ls`, which a build need not have.
            entries=("$path"/*)
            printf '%s: %s\n' "$name" "$path"
            ((${#entries[@]} == 0)) || printf '    %s\n' "${entries[@]##*/}"
        elif [[ -e $path ]]; then
            printf '%s: %s\n' "$name" "$path"
        else
            printf '%s: was not made\n' "$name"
        fi
    done
)

# A phase that says `exit` is not to take the session with it: it leads back to the prompt, as ^C does.
exit() {
    if ((BASH_SUBSHELL == 0 && ${#FUNCNAME[@]} > 1)); then
        echo "nix-build-shell: ${FUNCNAME[1]} called «exit${1+ $1}», and the session goes on" >&2
        kill -INT "$BASHPID"
    fi
    builtin exit "$@"
}

# --- The prompt and the history ----------------------------------------------------------------------------------------

# shellcheck disable=SC2016
PS1='[nix-build-shell '$nbsName'${nbsPhase:+:${nbsPhase/#-/done}}] $PWD \$ '
unset PROMPT_COMMAND PS0
if [[ $(type -t history) == builtin ]]; then
    HISTFILE=$nbsDirectory/state/history
    HISTSIZE=2000
    HISTFILESIZE=-1
    unset HISTTIMEFORMAT
    HISTCONTROL=ignoredups
    shopt -s histappend
    # Now and not at the end, so that a session that is killed has a history too.
    PROMPT_COMMAND='history -a'
fi
