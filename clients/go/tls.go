package keyfold

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
)

// maxTLSFile is the most bytes of a file of certificates. A system's whole list of authorities has
// about 250 KiB.
const maxTLSFile = 4 * 1024 * 1024

// TLS has the certificates that server and client prove themselves with. Every new connection uses what
// the files hold by then, and a server ends its connections every few minutes, so renewed certificates
// need no new client.
type TLS struct {
	// CAFile is the PEM file of the authorities that may sign the server's certificate; empty means the
	// system's.
	CAFile string
	// CertFile is the PEM file of the client's certificate chain, for mutual TLS.
	CertFile string
	// KeyFile is the PEM file of the client's private key, for mutual TLS.
	KeyFile string
	// ServerName is the name that the server's certificate must hold, if it is not the target's.
	ServerName string
}

// fileCredentials are gRPC's own TLS credentials, made anew when a file has changed.
type fileCredentials struct {
	serverName string
	config     *watched[*tls.Config]
}

// credentials reads the files for the first time.
func (t TLS) credentials() (credentials.TransportCredentials, error) {
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, unusable("give a client certificate and its key together, or neither")
	}
	var paths []string
	for _, path := range []string{t.CAFile, t.CertFile, t.KeyFile} {
		if path != "" {
			paths = append(paths, path)
		}
	}
	config, err := watch(paths, maxTLSFile, t.config)
	if err != nil {
		return nil, err
	}
	return &fileCredentials{t.ServerName, config}, nil
}

// config makes the configuration from the contents of the files that are given, in their order.
func (t TLS) config(contents [][]byte) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(contents[0]) {
			return nil, unusable("%s holds no certificate in PEM", t.CAFile)
		}
		contents = contents[1:]
	}
	if t.CertFile != "" {
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		if err != nil {
			// Go's own message names no content of the files.
			return nil, unusable("%s and %s: %s", t.CertFile, t.KeyFile, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// ClientHandshake proves both sides with what the files hold now.
func (f *fileCredentials) ClientHandshake(
	ctx context.Context, authority string, connection net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(f.config.current()).ClientHandshake(ctx, authority, connection)
}

// ServerHandshake fails: these are a client's credentials.
func (f *fileCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("a client's credentials prove no server")
}

// Info says that the connection is TLS, and which name the server must prove.
func (f *fileCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls", SecurityVersion: "1.2", ServerName: f.serverName}
}

// Clone returns credentials that read the same files.
func (f *fileCredentials) Clone() credentials.TransportCredentials {
	same := *f
	return &same
}

// OverrideServerName does nothing: TLS.ServerName says which name the server must prove.
func (f *fileCredentials) OverrideServerName(string) error { return nil }
