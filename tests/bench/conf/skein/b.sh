# Makes the mesh and becomes its first node, in front of the backend.
set -e
mkdir -p -m 700 @WORK@/b
export SKEIN_OPERATOR=@WORK@/operator
skein --config "$1" init bench.local --name b --service default/backend
exec skein --config "$1" run
