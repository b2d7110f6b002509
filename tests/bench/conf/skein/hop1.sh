# One node with the caller's port and the application.
set -e
mkdir -p -m 700 @WORK@/a
export SKEIN_OPERATOR=@WORK@/operator
skein --config "$1" init bench.local --name a --service default/backend --service default/client
exec skein --config "$1" run
