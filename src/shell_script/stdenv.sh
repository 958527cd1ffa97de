# shellcheck shell=bash
# What has to be known of stdenv to run phases one by one. The text stands in front of resume.sh and of session.sh, and is for every
# stdenv since 2012: what a newer one has, and what it calls its functions, is looked for.
# shellcheck disable=SC2154

nbsIsFunction() { [[ $(type -t "$1") == function ]]; }

# nbsHasText FUNCTION TEXT: whether the function has the text in it.
nbsHasText() { [[ $(declare -f "$1") == *"$2"* ]]; }

# nbsRename FUNCTION NAME: has it under another name.
nbsRename() {
    local text
    text=$(declare -f "$1") && eval "$2${text#"$1"}"
}

# All phases in the order in which genericBuild would come to them, a line each.
nbsAllPhases() (
    set +eu
    if nbsIsFunction definePhases; then
        definePhases
    elif [[ -z ${phases[*]-} ]]; then
        phases="${prePhases[*]} unpackPhase patchPhase ${preConfigurePhases[*]} configurePhase ${preBuildPhases[*]} buildPhase
            checkPhase ${preInstallPhases[*]} installPhase ${preFixupPhases[*]} fixupPhase installCheckPhase
            ${preDistPhases[*]} distPhase ${postPhases[*]}"
    fi
    # shellcheck disable=SC2048
    for phase in ${phases[*]}; do echo "$phase"; done
)

# nbsIsLeftOut PHASE: whether a variable has the phase left out; `nbsSwitch` is its name.
nbsIsLeftOut() {
    local name=${1%Phase}
    case $1 in
        checkPhase | installCheckPhase | distPhase)
            nbsSwitch=do${name^}
            [[ -z ${!nbsSwitch-} ]]
            ;;
        unpackPhase | patchPhase | configurePhase | buildPhase | installPhase | fixupPhase)
            nbsSwitch=dont${name^}
            [[ -n ${!nbsSwitch-} ]]
            ;;
        *) return 1 ;;
    esac
}

# nbsCanRun PHASE: a variable of that name is the phase, or else a function.
nbsCanRun() { [[ $1 == [a-zA-Z_]*([a-zA-Z0-9_]) && (-n ${!1-} || $(type -t "$1") == function) ]]; }

# nbsIsDoneBefore PHASE OTHER: whether the build has run PHASE when it comes to OTHER.
nbsIsDoneBefore() {
    local all
    all=$'\n'$(nbsAllPhases)$'\n'
    [[ ${all%%$'\n'"$2"$'\n'*} == "$all" ]] && return 1
    all=${all%%$'\n'"$2"$'\n'*}$'\n'
    [[ $all == *$'\n'"$1"$'\n'* ]] && ! nbsIsLeftOut "$1"
}

# nbsRecall PHASE: sets what phases tell those after them in variables that they do not export, where it can be known: PHASE begins in
# the directory that we are in. `nbsSourceRoot` is what the build's log says of the first.
nbsRecall() {
    local before
    if [[ -n ${nbsSourceRoot-} && -z ${sourceRoot-} ]] && nbsIsDoneBefore unpackPhase "$1"; then sourceRoot=$nbsSourceRoot; fi
    # Without this one checkPhase does nothing, and succeeds.
    for before in buildPhase installPhase; do
        if [[ -z ${foundMakefile-} && -z ${!before-} ]] && nbsHasText "$before" foundMakefile && nbsIsDoneBefore "$before" "$1"; then
            if [[ -n ${makeFlags-} || -n ${makefile-} || -e Makefile || -e makefile || -e GNUmakefile ]]; then foundMakefile=1; fi
        fi
    done
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

# Keeps the lines that stdenv writes for Nix, which shows them to nobody, from a terminal.
nbsHideFromTerminal() {
    if nbsIsFunction showPhaseHeader && nbsHasText showPhaseHeader NIX_LOG_FD; then
        nbsRename showPhaseHeader nbsShowPhaseHeader
        showPhaseHeader() {
            if [[ -t ${NIX_LOG_FD:-2} ]]; then local NIX_LOG_FD=; fi
            nbsShowPhaseHeader "$@"
        }
    elif [[ -t ${NIX_LOG_FD:-2} ]]; then
        # Before 2023 nothing else is written there.
        unset NIX_LOG_FD
    fi
}

# Runs one phase with a stdenv from before 2022, whose genericBuild did all by itself.
nbsRunPhase() {
    local phases=$1 buildCommand='' buildCommandPath=''
    genericBuild
}
