<?php
// Methods of the server API by phpcent. Arguments: the file that loads it, URLs of nodes, separated by commas, and the key.

[, $loader, $urls, $key] = $argv;
require $loader;

function check(bool $holds, string $what, $seen): void
{
    if (!$holds) {
        fwrite(STDERR, "$what: " . json_encode($seen) . "\n");
        exit(1);
    }
}

$clients = array_map(function (string $url) use ($key) {
    $client = new \phpcent\Client("$url/api", $key, 'secret');
    return $client->setUseAssoc(true);
}, explode(',', $urls));
$turn = 0;

/** What a method returns, of the next node in turn. */
function call(string $method, ...$arguments)
{
    global $clients, $turn;
    $reply = $clients[$turn++ % count($clients)]->$method(...$arguments);
    check(isset($reply['result']) || isset($reply['replies']), $method, $reply);
    return $reply['result'] ?? $reply['replies'];
}

$first = call('publish', 'page', ['n' => 1]);
check($first['offset'] >= 1 && $first['epoch'] !== '', 'where it is', $first);
$both = call('broadcast', ['page', 'other'], ['n' => 2]);
check(count($both['responses']) === 2, 'a response for each room', $both);
$history = call('history', 'page', 10);
$numbers = array_column(array_column($history['publications'], 'data'), 'n');
check(array_slice($numbers, -2) === [1, 2], 'what was published', $history);
check(call('presence', 'page')['presence'] === [], 'nobody is there', null);
check(call('presenceStats', 'page')['num_clients'] === 0, 'nor counted', null);
check(isset(call('channels')['channels']), 'rooms', null);
check(count(call('info')['nodes']) === count($clients), 'all nodes', null);
$replies = call('batch', ['commands' => [
    ['publish' => ['channel' => 'page', 'data' => null]],
    ['history' => ['channel' => 'page', 'limit' => 1, 'reverse' => true]],
]]);
check(array_key_exists('data', $replies[1]['history']['publications'][0]), 'the newest', $replies);
call('subscribe', 'page', 'nobody');
call('unsubscribe', 'page', 'nobody');
call('disconnect', 'nobody');
call('historyRemove', 'page');
check(call('history', 'page', 10)['publications'] === [], 'nothing is left', null);
$refused = $clients[0]->history('plain:x', 1);
check(isset($refused['error']['code']), 'it is refused', $refused);
echo "all of the API by phpcent\n";
