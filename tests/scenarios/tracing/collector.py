"""A collector by the published packages `grpcio` and `opentelemetry-proto`, of OTLP/gRPC and, beside it, OTLP/HTTP.

It prints a line of JSON for each span and record."""

import json
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


def texts(attributes):
    return {pair.key: pair.value.string_value for pair in attributes}


def tell(what, **said):
    print(json.dumps({"is": what, **said}), flush=True)


def tell_spans(request, way, tenant):
    for of_resource in request.resource_spans:
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                tell(
                    "span",
                    way=way,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    kind=span.kind,
                    nanos=span.end_time_unix_nano - span.start_time_unix_nano,
                    attributes=texts(span.attributes),
                    resource=texts(of_resource.resource.attributes),
                    metadata=tenant,
                )


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        tell_spans(request, "grpc", dict(context.invocation_metadata()).get("x-tenant"))
        return trace_service_pb2.ExportTraceServiceResponse()


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path != "/v1/traces" or self.headers["content-type"] != "application/x-protobuf":
            return self.answer(415, b"")
        tell_spans(trace_service_pb2.ExportTraceServiceRequest.FromString(body), "http", self.headers["x-tenant"])
        self.answer(200, trace_service_pb2.ExportTraceServiceResponse().SerializeToString())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def Export(self, request, context):
        for of_resource in request.resource_logs:
            for scope in of_resource.scope_logs:
                for record in scope.log_records:
                    tell(
                        "record",
                        trace=record.trace_id.hex(),
                        body=record.body.string_value,
                        attributes=texts(record.attributes),
                        resource=texts(of_resource.resource.attributes),
                    )
        return logs_service_pb2.ExportLogsServiceResponse()


server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
logs_service_pb2_grpc.add_LogsServiceServicer_to_server(Logs(), server)
by_http = ThreadingHTTPServer(("127.0.0.1", 0), Http)
threading.Thread(target=by_http.serve_forever, daemon=True).start()
tell("ready", port=server.add_insecure_port("127.0.0.1:0"), http=by_http.server_port)
server.start()
sys.stdin.read()
