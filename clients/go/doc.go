// Package keyfold is Keyfold's client for Go: it wraps data keys under root keys that the customer
// holds.
//
//	client, err := keyfold.Open(keyfold.Settings{Target: "127.0.0.1:7443"})
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	key, err := client.GenerateDataKey(ctx, "prod", "eu", keyfold.Context{"table": "users"})
//
// Encrypt with key.Plaintext, store key.WrappedKey beside the data and forget the plaintext. Unwrap
// brings it back for as long as the customer allows; an [Envelope] does all of it for you.
//
// The calls that wrap and unwrap have values of their own, whose [Plaintext] does not print itself.
// All other calls take and return the messages of the contract, package keyfoldv1, and fill in what a
// message leaves out: the request_id of a change, and the deadline where ctx has none.
//
// Every call that fails returns an [*Error], which errors.As finds. Its Reason is a stable word:
//
//	var failed *keyfold.Error
//	switch {
//	case errors.As(err, &failed) && failed.Reason == keyfold.ReasonRevoked:
//	case errors.Is(err, keyfold.ErrRefused): // whatever the reason
//	}
//
// gRPC repeats a call for which no server is available, at most three times. That is safe for every
// method: calls that wrap or unwrap change nothing, and the server recognizes a repeated change by its
// request_id.
package keyfold
