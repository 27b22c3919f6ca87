
# What this machine does. -------------------------------------------------------------------------

poll=${SUPERNET_POLL_SECONDS:-20}
everywhere=(--node=all --worker=all)
by_hand="gcloud compute tpus queued-resources delete $name ${where[*]} --force"
temp=$(mktemp -d)
starts=0
reached=no
installed=no
follower=

say() { echo "supernet: $*" >&2; }
queued() { gcloud compute tpus queued-resources "$@" "${where[@]}" --quiet </dev/null; }
one() { queued ssh "$name" --command="$1" --ssh-flag=-oServerAliveInterval=30; }
all() { queued ssh "$name" --command="$1" --ssh-flag=-oServerAliveInterval=30 "${everywhere[@]}"; }

state() { # of the queued resource; NONE if there is none, UNREACHABLE if gcloud cannot say
  if queued describe "$name" --format='value(state.state)' 2>"$temp/error"; then return; fi
  if grep -qiE 'not.?found' "$temp/error"; then echo NONE; return; fi
  cat "$temp/error" >&2
  echo UNREACHABLE
}

ready() { # waits until there are TPUs; fails if there will be none
  local now before=
  while :; do
    now=$(state)
    [ "$now" = "$before" ] || say "$name is $now"
    case $now in
      ACTIVE) return ;;
      NONE) "${create[@]}" --async || { [ "$starts" -gt 0 ] || exit 1; } ;;
      FAILED | SUSPENDING | SUSPENDED)
        queued describe "$name" --format='value(state)' >&2
        return 1 ;;
      UNREACHABLE) [ "$starts$before" != 0 ] || exit 1 ;;
      ACCEPTED | CREATING | WAITING_FOR_RESOURCES | PROVISIONING | DELETING) ;;
      *) [ "$now" = "$before" ] || say "this script does not know the state $now, and waits" ;;
    esac
    before=$now
    sleep "$poll"
  done
}

install() { # once; not where training runs already, as this script was interrupted
  [ $installed = no ] || return 0
  if one "bash $folder.sh host running" 2>"$temp/error"; then installed=yes; return; fi
  say "copying the current folder to the hosts, and setting them up"
  queued scp "$temp/$folder.sh" "$temp/$folder.tar.gz" "$name:" "${everywhere[@]}" || return 255
  all "bash $folder.sh host setup" && installed=yes
}

watch() { # shows the log of process 0 until it ends; fails if the TPUs are reclaimed
  local now
  while :; do
    set -m # in a process group of its own, which can be ended
    one "bash $folder.sh host follow" &
    follower=$!
    set +m
    while kill -0 "$follower" 2>/dev/null; do
      sleep "$poll"
      now=$(state)
      case $now in
        ACTIVE | UNREACHABLE) ;;
        *) say "$name is $now"; unfollow; return 1 ;;
      esac
    done
    unfollow
    # It ends too when the connection breaks.
    one "bash $folder.sh host running" 2>"$temp/error" || return 0
  done
}

unfollow() {
  [ -z "$follower" ] || { kill -- "-$follower"; wait "$follower"; } 2>/dev/null
  follower=
}

collect() { # sets the outcome by the statuses of all hosts, each of which waits for its own
  local statuses status ended=
  while [ "$(state)" = UNREACHABLE ]; do sleep "$poll"; done
  statuses=$(all "bash $folder.sh host status" | sed -n 's/^status //p')
  [ "$(wc -w <<<"$statuses")" -eq "$hosts" ] || return
  say "training ended with $(xargs <<<"$statuses")"
  outcome=0
  for status in $statuses; do
    [ "$status" = running ] || ended=yes
    if [[ " running $again " == *" $status "* ]]; then
      [ "$outcome" != 0 ] || outcome=again
    elif [ "$status" != 0 ]; then
      outcome=$status
    fi
  done
  [ -n "$ended" ] || outcome=running
}

start_again() { # after $1; ends here if that was too often
  starts=$((starts + 1))
  if [ "$starts" -gt "$restarts" ]; then
    say "$1; not started again, after $restarts times"
    finish 75
  fi
  say "$1; starting again ($starts of at most $restarts times)"
}

finish() { # with status $1
  if [ "$keep" = yes ]; then
    all "bash $folder.sh host stop"
    say "$name is kept, and costs until you delete it: $by_hand"
  else
    say "deleting $name"
    queued delete "$name" --force || say "$name may still be there and cost; delete it: $by_hand"
  fi
  exit "$1"
}

interrupted() {
  unfollow
  say "$name stays, and training on it goes on, but is not started again after a failure"
  say "go on here by the same command; or end it all: $by_hand"
  exit 130
}

trap 'rm -rf "$temp"' EXIT
trap interrupted INT TERM HUP
cp "${BASH_SOURCE[0]}" "$temp/$folder.sh" || exit
tar -czf "$temp/$folder.tar.gz" --exclude=./.git --exclude=./.venv --exclude=./runs . || exit
while :; do
  outcome=lost
  if ! ready; then
    :
  elif ! hosts=$(all "echo here" | grep -c '^here$'); then
    [ "$reached" = yes ] || { say "no host of $name can be reached by ssh"; finish 1; }
  else
    reached=yes
    install
    case $? in
      0) all "bash $folder.sh host start" && watch && collect ;;
      255) ;; # ssh's own failure
      *) say "the hosts could not be set up"; outcome=1 ;;
    esac
  fi
  case $outcome in
    running) ;;
    again) start_again "training stopped before its end"; all "bash $folder.sh host stop" ;;
    lost) start_again "TPUs were lost"; installed=no; queued delete "$name" --force ;;
    *) finish "$outcome" ;;
  esac
done
