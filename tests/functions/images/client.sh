#!/bin/sh
# client PROGRAM…: answer each call with the program's output; the call is its input.
api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation
while wget -qSO in $api/next 2>head; do
  id=$(sed -n 's/.*Aws-Request-Id: *//ip' head | tr -d '\r')
  if "$@" <in >out; then wget -qO- --post-file out $api/$id/response
  else wget -qO- --post-data "{\"errorType\": \"Exit\", \"errorMessage\": \"$1 ended with $?\"}" $api/$id/error; fi
done
