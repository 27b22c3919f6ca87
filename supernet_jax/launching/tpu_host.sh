
# What a host does. -------------------------------------------------------------------------------

running() { [ -f pid ] && kill -0 "$(cat pid)" 2>/dev/null; }

host() {
  mkdir -p "$HOME/$folder" && cd "$HOME/$folder" || exit
  case $1 in
    running) running ;;
    setup) # by uv, which brings a newer Python than the system's
      exec 9>lock && flock 9 # gcloud repeats a command when the connection breaks
      rm -rf project && mkdir project && tar -xzf "../$folder.tar.gz" -C project || exit
      PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv &&
        python3 -m uv venv --quiet --seed --allow-existing --python 3.11 venv &&
        . venv/bin/activate && cd project && eval "$setup" ;;
    start) # nothing if it runs, likewise
      running && exit
      rm -f status
      setsid nohup bash "$HOME/$folder.sh" host train >>log 2>&1 </dev/null &
      echo $! >pid ;;
    train)
      . venv/bin/activate
      (cd project && eval "$train")
      echo $? >status ;;
    follow) tail -n 100 -f -s 0.2 --pid="$(cat pid)" log ;;
    status) # the processes of a job end within two minutes of each other
      for ((i = 0; i < 150; i++)); do
        running || break
        sleep 1
      done
      status=running
      running || status=$(cat status 2>/dev/null || echo 137) # with no word: killed
      case $status in
        0 | 75 | running) ;;
        *) tail -n 20 log | sed "s/^/$(hostname): /" >&2 ;;
      esac
      echo "status $status" ;;
    stop) ! running || kill -KILL -- "-$(cat pid)" ;;
  esac
}

if [ "${1:-}" = host ]; then
  host "$2"
  exit
fi
