# Joins as an ordinary machine does, and becomes the client's node.
set -e
mkdir -p -m 700 @WORK@/a
export SKEIN_OPERATOR=@WORK@/operator
until skein --node unix:@WORK@/b.sock invite a --service default/client >@WORK@/token 2>@WORK@/invite.log; do sleep 0.1; done
skein --config "$1" join --token-file @WORK@/token
exec skein --config "$1" run
