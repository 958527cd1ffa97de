# shellcheck shell=bash
# `resume` in a session, whose bash reads this after session.sh.
# shellcheck disable=SC2154

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

# resume [[--from] PHASE | --only PHASE]: runs the phase that failed, or PHASE, and all that follow, until one fails. What it refuses has
# the status that it has outside of the sandbox: a phase may well end with the 2 of bash's own commands, as after a failing `make`.
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
                    return 125
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
                return 125
                ;;
        esac
        if [[ -z $1 ]]; then
            nbsSay "the name of a phase is empty; «phases» lists them"
            return 125
        elif [[ -n $nbsFirst ]]; then
            nbsSay "resume takes one phase to begin with, not $nbsFirst and $1"
            return 125
        fi
        nbsFirst=$1
        shift
    done
    nbsHasPhases || return
    nbsFirst=${nbsFirst:-$nbsPhase}
    if [[ -z $nbsFirst && -n $nbsIsFresh ]]; then IFS= read -r nbsFirst < <(nbsPhases); fi
    if [[ -z $nbsFirst || $nbsFirst == - ]]; then
        nbsSay "from which phase? «resume PHASE»"
        return 125
    fi
    nbsAll=$'\n'$(nbsPhases)$'\n'
    if nbsIsLeftOut "$nbsFirst"; then
        nbsSay "$nbsFirst is left out of this build by $nbsSwitch, which is «${!nbsSwitch-}»"
        return 125
    elif [[ $nbsHow == only ]] && nbsCanRun "$nbsFirst"; then
        nbsAll=$nbsFirst
    elif [[ $nbsAll == *$'\n'"$nbsFirst"$'\n'* ]]; then
        nbsAll=$nbsFirst$'\n'${nbsAll#*$'\n'"$nbsFirst"$'\n'}
    else
        nbsSay "$nbsFirst is none of the phases; «phases» lists them"
        return 125
    fi
    if [[ $'\n'$nbsAll$'\n' == *$'\n'unpackPhase$'\n'* && $nbsPhase == unpackPhase ]]; then
        nbsClearTop || return 125
    elif [[ $'\n'$nbsAll$'\n' == *$'\n'unpackPhase$'\n'* ]] && nbsIsUnpacked; then
        nbsSay "the sources are unpacked already, and your changes are among them; outside of the sandbox «nix-build-shell resume --from unpackPhase» begins anew"
        return 125
    fi
    if [[ $nbsFirst == patchPhase ]] && nbsIsDoneBefore patchPhase "${nbsPhase/#-/fixupPhase}"; then
        nbsSay "patchPhase meets what it has patched already"
    fi
    # What failed does not succeed by being passed over, but perhaps it was run alone since.
    if [[ $nbsHow == from && -n $nbsPhase && $nbsPhase != - && ${nbsRan[$nbsPhase]-} != 0 ]] && nbsIsDoneBefore "$nbsPhase" "$nbsFirst"; then nbsHow=beyond; fi
    nbsPutAway "$nbsFirst" || return 125
    : >| "$nbsDirectory/state/phases.$$"
    nbsMark begin
    # shellcheck disable=SC2086
    nbsAfresh nbsApart $nbsAll
    nbsMark end
    # Stopped by ^Z, it goes on with «fg».
    if ((nbsResult == 148)); then return 148; fi
    while IFS= read -r -d '' nbsEach && IFS= read -r -d '' nbsPlace && IFS= read -r -d '' nbsThere; do
        nbsLast=$nbsEach
        nbsBegan[$nbsEach]=$nbsPlace
        nbsHad[$nbsEach]=$nbsThere
        # The last one may have failed.
        if [[ $nbsHow == from ]]; then unset -v 'nbsRan[$nbsEach]'; else nbsRan[$nbsEach]=0; fi
    done < "$nbsDirectory/state/phases.$$"
    for nbsEach in "${!nbsBegan[@]}"; do
        printf '%s\0%s\0%s\0' "$nbsEach" "${nbsBegan[$nbsEach]}" "${nbsHad[$nbsEach]}"
    done >| "$nbsDirectory/state/began"
    nbsStampOutputs
    # The directory that we are in may have been moved away, and another be in its place.
    [[ . -ef $PWD ]] || cd -- "$PWD" 2> /dev/null || cd -- "$nbsTop" || true
    if ((nbsResult != 0)); then
        if [[ $nbsHow != from && -n $nbsLast ]]; then nbsRan[$nbsLast]=$nbsResult; fi
        if [[ $nbsHow == from && -n $nbsLast ]]; then
            nbsPhase=$nbsLast
            nbsPhaseDirectory=${nbsBegan[$nbsLast]}
            nbsNote "${nbsHad[$nbsLast]}"
        fi
        nbsSay "${nbsLast:-$nbsFirst} failed with status $nbsResult"
        return "$nbsResult"
    elif [[ $nbsHow == only ]]; then
        nbsSay "$nbsFirst succeeds"
        return 0
    elif [[ $nbsHow == beyond ]]; then
        nbsListOutputs "$nbsFirst and all after it succeed; $nbsPhase, which failed, was passed over, so the build is not complete" \
            "$nbsFirst and all after it succeed"
        return
    fi
    nbsPhase=-
    nbsNote "$(nbsOutputsThere)"
    nbsListOutputs "the build is complete" "every phase succeeds"
}

# nbsNote OUTPUTS: has who enters the session again know what is the phase that failed, or that none did, and which outputs it found.
nbsNote() { printf '%s\0' "$nbsPhase" "$nbsPhaseDirectory" "$1" >| "$nbsDirectory/state/phase"; }

nbsIsUnpacked() { [[ $nbsPhaseDirectory != "$nbsTop" || -n $nbsSourceRoot && -e $nbsTop/$nbsSourceRoot ]]; }

# nbsFreePath PATH: the path, or else the first with a number behind it at which there is nothing.
nbsFreePath() {
    local path=$1 number=1
    while nbsIsThere "$path"; do
        number=$((number + 1))
        path=$1-$number
    done
    echo "$path"
}

# Nothing can be unpacked twice into one directory: moves away what unpackPhase has made before it failed, with all that was done there.
nbsClearTop() {
    local entry made=() aside
    for entry in "$nbsTop"/*; do
        if [[ -d $entry && ! -L $entry && ${entry##*/} != before-resume* ]]; then made+=("$entry"); fi
    done
    if ((${#made[@]} == 0)); then return 0; fi
    aside=$(nbsFreePath "$nbsTop/before-resume")
    chmod -R u+w -- "${made[@]}" && mkdir -- "$aside" && mv -- "${made[@]}" "$aside/" || return
    nbsSay "unpackPhase begins without sources, as in the build; what was there is in $aside now"
}

# nbsApart PHASE...: runs the phases one by one, with nothing to read, where one that fails, or that calls `exit`, ends no more than
# this.
nbsApart() { (nbsResume "$@") < /dev/null; }

nbsResume() {
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
}

# nbsWhere PHASE: the directory in which it begins: where it began before, or what failed did; one before that begins in the sources,
# and so does one after it where that was to unpack them.
nbsWhere() {
    if [[ -n ${nbsBegan[$1]-} ]]; then
        echo "${nbsBegan[$1]}"
    elif [[ $nbsPhase == unpackPhase ]] && nbsIsDoneBefore unpackPhase "$1"; then
        echo "$nbsTop/$nbsSourceRoot"
    elif [[ -z $nbsPhase || $nbsPhase == - || $1 == "$nbsPhase" ]] || nbsIsDoneBefore "$nbsPhase" "$1"; then
        echo "$nbsPhaseDirectory"
    elif nbsIsDoneBefore unpackPhase "$1"; then
        echo "$nbsTop/$nbsSourceRoot"
    else
        echo "$nbsTop"
    fi
}

# The outputs are as phases have made them. By the clock of files, which ticks 100 times a second and more, all that is made from now on
# is younger than that.
nbsStampOutputs() {
    local nbsNow nbsTime
    : >| "$nbsDirectory/state/outputs"
    nbsAwaitTick "$nbsDirectory/state/outputs"
}

# nbsPutAway PHASE: has no outputs there but those that there were when PHASE began. What phases alone have made since, they make again;
# what somebody may have made by hand is kept beside it.
nbsPutAway() {
    local had path aside
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
        aside=$(nbsFreePath "$path-before-resume")
        mv -- "$path" "$aside" || return
        nbsSay "$1 begins without $path, as in the build; what was there is in $aside now"
    done
}

# nbsListOutputs COMPLETE INCOMPLETE: says COMPLETE, and what there is now, or INCOMPLETE where Nix would miss an output that nobody made.
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
        nbsSay "$1"
    else
        nbsSay "$2, but Nix would miss what they did not make: ${missing[*]}"
    fi
    ((${#lines[@]} == 0)) || printf '%s\n' "${lines[@]}"
    ((${#missing[@]} == 0))
)

# What phases found that were run before somebody came in here.
if [[ -s $nbsDirectory/state/began ]]; then
    while IFS= read -r -d '' nbsPath && IFS= read -r -d '' nbsBegan["$nbsPath"] && IFS= read -r -d '' nbsHad["$nbsPath"]; do :; done \
        < "$nbsDirectory/state/began"
fi
# What the phase that failed found. In a session that is entered again the time of the file is that of the outputs.
[[ -e $nbsDirectory/state/outputs ]] || nbsStampOutputs
if [[ -n $nbsPhase ]]; then
    nbsHad[$nbsPhase]=${nbsFound-}
    for nbsPath in $(nbsOutputsThere); do
        [[ -n ${nbsFound+known} || " $nbsMadeOutputs " == *" $nbsPath "* ]] || nbsHad[$nbsPhase]+="$nbsPath "
    done
    if nbsIsFunction genericBuild; then nbsRecall "$nbsPhase"; fi
fi
unset nbsPath nbsMadeOutputs nbsFound
