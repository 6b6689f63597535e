package keyfold

import (
	"net"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// schemes are those of gRPC targets that pass as they are.
var schemes = regexp.MustCompile(`^(dns|unix|unix-abstract|passthrough|xds):`)

// target returns the target as gRPC takes it, with the options that several addresses need.
func target(given string, certificates *TLS) (string, []grpc.DialOption, error) {
	addresses := addressesOf(given)
	if len(addresses) == 1 {
		if schemes.MatchString(given) {
			return given, nil, nil
		}
		if _, err := hostOf(given); err != nil {
			return "", nil, err
		}
		return "dns:///" + addresses[0], nil, nil
	}
	var state resolver.State
	authority, same := "", true
	for _, address := range addresses {
		host, err := hostOf(address)
		if err != nil {
			return "", nil, err
		}
		same = same && (authority == "" || authority == host)
		authority = host
		endpoint := resolver.Endpoint{Addresses: []resolver.Address{{Addr: address}}}
		state.Endpoints = append(state.Endpoints, endpoint)
	}
	builder := manual.NewBuilderWithScheme("keyfold")
	builder.InitialState(state)
	options := []grpc.DialOption{grpc.WithResolvers(builder)}
	switch {
	case certificates != nil && certificates.ServerName != "":
	case same:
		options = append(options, grpc.WithAuthority(authority))
	case certificates != nil:
		return "", nil, unusable("several hosts with TLS need a ServerName that all of them prove")
	}
	return "keyfold:///servers", options, nil
}

func addressesOf(target string) []string {
	addresses := strings.Split(target, ",")
	for i := range addresses {
		addresses[i] = strings.TrimSpace(addresses[i])
	}
	return addresses
}

func hostOf(address string) (string, error) {
	if strings.Contains(address, "@") {
		// What stands before it may be a password, so the message does not repeat the address.
		return "", unusable("the address has an @: give host:port alone, and credentials apart")
	}
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || host == "" || strings.Contains(host, "/") || schemes.MatchString(address) {
		return "", unusable("%q is not host:port or unix:/path", address)
	}
	return host, nil
}

// isLocal reports whether plain text to an address surely stays on this machine.
func isLocal(address string) bool {
	if strings.HasPrefix(address, "unix:") || strings.HasPrefix(address, "unix-abstract:") {
		return true
	}
	host, err := hostOf(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
