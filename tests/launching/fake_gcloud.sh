#!/bin/bash
# Plays `gcloud compute tpus queued-resources`, with two hosts that are folders of this machine, and
# `supernet train` on them. The folder $FAKE holds what a test plans, and what happened:
#   states-N  words that `describe` says one after another for creation N, the last for ever;
#             OUTAGE fails as gcloud does without a network
#   plan      a line for each start of training with a word for each host: its exit status, or
#             `stay` (runs on), `reclaim` (the TPUs are suspended), `lose` (this host is gone)
#   calls     a line for each call
#   host-N    the home folder of host N, as long as there is a queued resource
set -u

train() { # on a host
  local host=${HOME##*-} number word
  echo "$*" >>"$FAKE/starts-$host"
  number=$(wc -l <"$FAKE/starts-$host")
  word=$(sed -n "${number}p" "$FAKE/plan" | cut -d' ' -f$((host + 1)))
  echo "start $number of training on host $host: $word"
  case $word in
    stay) exec sleep 60 ;;
    reclaim) echo SUSPENDED >"$FAKE/states"; exec sleep 60 ;;
    lose)
      touch "$FAKE/lost-$host"
      for session in "$FAKE/session-$host"-*; do kill "${session##*-}" 2>/dev/null; done
      exec sleep 60 ;;
    *) sleep 0.1; exit "$word" ;;
  esac
}

describe() {
  local first later
  if [ ! -f "$FAKE/states" ]; then
    echo "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: no 'x'" >&2
    exit 1
  fi
  read -r first later <"$FAKE/states"
  [ -z "$later" ] || echo "$later" >"$FAKE/states"
  if [ "$first" = OUTAGE ]; then
    echo "ERROR: (gcloud) unreachable" >&2
    exit 1
  fi
  echo "$first"
}

create() {
  local number
  number=$(grep -c ^create "$FAKE/calls")
  if [ ! -f "$FAKE/states-$number" ]; then
    echo "ERROR: (gcloud.compute.tpus.queued-resources.create) PERMISSION_DENIED" >&2
    exit 1
  fi
  cp "$FAKE/states-$number" "$FAKE/states"
  mkdir "$FAKE/host-0" "$FAKE/host-1"
}

delete() {
  for pid in "$FAKE"/host-*/*/pid; do kill -KILL -- "-$(cat "$pid")" 2>/dev/null; done
  rm -rf "$FAKE"/host-* "$FAKE"/lost-* "$FAKE/states"
}

ssh() { # to host 0, or to all at once; the first status that is not 0, and 255 for a lost host
  local hosts=(0) host status=0 pids=()
  [[ "$*" != *--worker=all* ]] || hosts=(0 1)
  for word in "$@"; do [[ $word != --command=* ]] || command=${word#*=}; done
  for host in "${hosts[@]}"; do
    # First the session, then the look: a host that gets lost meanwhile ends it in any case.
    (touch "$FAKE/session-$host-$BASHPID"
     [ ! -f "$FAKE/lost-$host" ] || exit 255
     HOME=$FAKE/host-$host; cd "$HOME" && exec bash -c "$command") &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
  ls "$FAKE"/lost-* >/dev/null 2>&1 && status=255
  exit $status
}

scp() { cp "$1" "$2" "$FAKE/host-0"; cp "$1" "$2" "$FAKE/host-1"; }

if [ "$1" = train ]; then train "$@"; fi
[ "$1" != alpha ] || shift
shift 3
echo "$*" >>"$FAKE/calls"
"$@"
