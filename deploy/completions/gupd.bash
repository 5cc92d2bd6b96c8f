# shellcheck shell=bash
# Completion for gupd. Commands and flags come from the program's own --help, so this file fits every version.
_gupd() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} word help
    local -a command=("${COMP_WORDS[0]}") candidates
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $word == -* ]] && break
        command+=("$word")
    done
    help=$("${command[@]}" --help 2>/dev/null) || return 0
    case $previous in
    --config | --tls-cert | --tls-key | --profile) mapfile -t COMPREPLY < <(compgen -f -- "$current") && return 0 ;;
    --store) mapfile -t COMPREPLY < <(compgen -d -- "$current") && return 0 ;;
    esac
    mapfile -t candidates < <(awk '
        /^[A-Z].*:$/ { section = $1 }
        section == "Commands:" && /^  [a-z]/ { print $1 }
        /^ +(-[a-zA-Z], )?--/ && match($0, /--[a-z][a-z-]*/) { print substr($0, RSTART, RLENGTH) }' <<<"$help")
    mapfile -t COMPREPLY < <(compgen -W "${candidates[*]}" -- "$current")
}
complete -F _gupd gupd
