"""Stands before moto and answers chosen requests with an error of AWS's. Arguments: moto's address, a part of the request
to look for ("" is every one), the status, the error's code. Prints its own port."""

import http.client
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

moto, part, status, code = sys.argv[1:5]


class Handler(BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        text = f"{self.command} {self.path}\n{self.headers}\n".encode() + body
        if part.encode() in text:
            json_protocol = "X-Amz-Target" in self.headers
            if json_protocol:
                said = '{"__type": "%s", "Message": "made up"}' % code
            elif b"Version=2016-11-15" in body:
                said = f"<Response><Errors><Error><Code>{code}</Code><Message>made up</Message></Error></Errors></Response>"
            elif self.path.startswith("/2013-04-01") or body:
                said = f"<ErrorResponse><Error><Code>{code}</Code><Message>made up</Message></Error></ErrorResponse>"
            else:
                said = f"<Error><Code>{code}</Code><Message>made up</Message></Error>"
            self.send_response(int(status))
            said = b"" if self.command == "HEAD" else said.encode()
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)
            return
        connection = http.client.HTTPConnection(moto)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        said = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
# Ends with whoever holds the other end of the standard input.
threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
server.serve_forever()
